"""The papers' items, one file a paper, and what they share: networks by rows, tables over seeds, attacks, units."""
