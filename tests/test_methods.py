"""The table of training methods."""

from lowcurve.study.jobs import required_methods, training_plan
from lowcurve.study.method_options import DEFAULT_METHODS, METHOD_NAMES
from lowcurve.study.methods import METHODS
from lowcurve.study.settings import Study


def test_every_name_has_its_method_after_the_one_that_it_needs():
    assert tuple(METHODS) == METHOD_NAMES
    assert set(DEFAULT_METHODS) <= set(METHOD_NAMES)
    for name, method in METHODS.items():
        assert not method.previous or METHOD_NAMES.index(method.previous) < METHOD_NAMES.index(name)


def test_the_plan_of_a_study_names_what_is_trained_and_from_where():
    study = Study(methods=("CURE", "distillation"))
    assert training_plan(study) == {"standard": "", "CURE": "standard", "teacher": "", "distillation": ""}
    own = Study(methods=("standard", "CURE", "PGD"), model="mine:make", weights="mine.pt")
    assert training_plan(own) == {"CURE": "given", "PGD": ""}
    assert required_methods(own) == ["CURE", "PGD"]
