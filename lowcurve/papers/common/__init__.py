"""Share what the papers have in common: where items are made, tables over seeds, units."""
