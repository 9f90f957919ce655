"""Share code between the papers: the context of a reproduction, tables over seeds, units, training costs."""
