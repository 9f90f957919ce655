"""Networks and functions that the documentation uses as examples."""
