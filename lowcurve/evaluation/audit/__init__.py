"""Test whether a robust accuracy can be believed: 25 tests for gradient masking and one verdict."""

from lowcurve.evaluation.audit.budget import THOROUGH, Budget
from lowcurve.evaluation.audit.exchange import SCHEMA
from lowcurve.evaluation.audit.run import CHECKS, audit
from lowcurve.evaluation.audit.verdict import Audit, Check, Finding

__all__ = ["CHECKS", "SCHEMA", "THOROUGH", "Audit", "Budget", "Check", "Finding", "audit"]
