"""Reproduce the tables and figures of five papers, one folder or file per paper."""
