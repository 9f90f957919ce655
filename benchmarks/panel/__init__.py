"""Networks of the public panel on which the audit's error rates are measured."""
