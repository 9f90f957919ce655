"""Compute the tables and figures that `lowcurve draw`, reports and papers show."""
