"""Loggers of trainings, trackers of other libraries offline, and where a run's numbers come from."""

import csv
import json
import shutil
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from lowcurve.cli.tracking import log_report
from lowcurve.data import digits
from lowcurve.errors import InputError
from lowcurve.libraries import LOGGERS
from lowcurve.results import Column, Curves, Line, Table, code_version
from lowcurve.store import Run
from lowcurve.store.loggers import is_offline, make_loggers, prepare_loggers, require_loggers
from lowcurve.store.provenance import describe_origin
from lowcurve.study.settings import Study

SETTINGS = {"data": "digits", "training": {"epochs": 2}, "methods": ["standard", "CURE"]}
TABLE = Table("t", (Column("network"), Column("clean"), Column("audit")), (("CURE", (0.9, 0.8, 1.0), "fine"),))
RESULTS = {"comparison": TABLE, "against radius": Curves("c", "x", "y", (0.0, 1.0), {"CURE": Line((0.9, 0.5))})}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """A run's directory; no tracker finds a key or an address."""
    names = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "TRACKIO_PROJECT")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    (tmp_path / "run").mkdir()
    return Run(tmp_path / "run")


def logged(run: Run, kind: str) -> None:
    """Log two epochs of a training, and a report, to one logger."""
    prepare_loggers(run.folder, [kind])
    for logger in run.loggers("CURE", [kind], SETTINGS):
        for step, loss in ((5, 2.5), (10, 1.5)):
            logger.log_metrics({"loss": loss}, step=step)
        logger.finalize("success")
    log_report(run, [kind], SETTINGS, RESULTS)


def test_csv_holds_the_curves_and_no_report(run):
    logged(run, "csv")
    with (run.folder / "logs" / "CURE" / "part-1" / "metrics.csv").open() as file:
        assert [(row["step"], row["loss"]) for row in csv.DictReader(file)] == [("5", "2.5"), ("10", "1.5")]
    assert not (run.folder / "logs" / "report").exists()


def test_tensorboard_holds_curves_settings_and_figures(run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    logged(run, "tensorboard")
    events, report = (accumulator(str(run.folder / "logs" / name / "part-1")) for name in ("CURE", "report"))
    events.Reload()
    report.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(5, 2.5), (10, 1.5)]
    assert report.Scalars("CURE/clean")[0].value == pytest.approx(0.9)
    assert report.Tags()["images"] == ["against radius"]
    assert report.Images("against radius")[0].width > 500


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_wandb_is_offline_without_a_key(run, caplog):
    pytest.importorskip("wandb", reason="wandb is not installed", exc_type=ImportError)
    assert is_offline()
    with caplog.at_level("INFO", "lowcurve"):
        logged(run, "wandb")
    assert "wandb sync" in caplog.text
    for name in ("CURE", "report"):
        (kept,) = (run.folder / "logs" / name / "part-1" / "wandb").glob("offline-run-*/run-*.wandb")
        ends = time.monotonic() + 20
        while kept.stat().st_size < 100 and time.monotonic() < ends:
            time.sleep(0.1)  # its service writes in another process
        assert kept.stat().st_size > 100
    assert list((run.folder / "logs" / "report").rglob("*.png"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_mlflow_keeps_its_database_in_the_run(run):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed", exc_type=ImportError)
    logged(run, "mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run.folder.resolve()}/logs/mlflow.db")
    experiment = client.get_experiment_by_name("lowcurve")
    found = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"run/CURE", "run/report"}
    training, report = found["run/CURE"], found["run/report"]
    assert training.info.status == "FINISHED"
    assert training.data.params["training.epochs"] == "2"
    assert training.data.params["methods"] == "standard,CURE"
    assert [(m.step, m.value) for m in client.get_metric_history(training.info.run_id, "loss")] == [(5, 2.5), (10, 1.5)]
    assert report.data.metrics == {"CURE/clean": 0.9}
    assert [file.path for file in client.list_artifacts(report.info.run_id)] == ["against radius.png"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_trackio_is_local(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio", reason="trackio is not installed", exc_type=ImportError)
    logged(run, "trackio")
    assert capsys.readouterr().out == ""
    place = Path(trackio.utils.TRACKIO_DIR) / "lowcurve.db"
    with sqlite3.connect(place) as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    found = [(name, step, json.loads(metrics)) for name, step, metrics in rows if name.startswith("run/")]
    assert [(step, metrics["loss"]) for name, step, metrics in found if name == "run/CURE"][-2:] == [
        (5, 2.5),
        (10, 1.5),
    ]
    assert any("against radius" in metrics for name, _, metrics in found if name == "run/report")


def test_a_failed_training_says_so_to_its_loggers(run, monkeypatch):
    from trainings import Stopped, stopping, trained

    from lowcurve.training import Hardware, make_fabric

    made = make_fabric(Hardware("cpu"), loggers=run.loggers("standard"))
    said = []
    monkeypatch.setattr(made.loggers[0], "finalize", said.append)
    with pytest.raises(Stopped):
        trained(fabric=made, progress=stopping(7))
    assert said == ["failed"]


def test_loggers_that_cannot_be_made(tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match=r"loggers among csv, tensorboard, wandb, mlflow, trackio, got 'wandbb'. Did you"
    ):
        Study(loggers=("wandbb",))
    for kind in ("wandb", "mlflow", "trackio", "tensorboard"):
        monkeypatch.setitem(sys.modules, LOGGERS[kind], None)
        with pytest.raises(InputError, match=rf"library {kind} for --loggers {kind}.*'lowcurve\[trackers\]'"):
            require_loggers([kind])
        with pytest.raises(InputError, match=kind):
            make_loggers(tmp_path, "standard", [kind])
    assert list(tmp_path.iterdir()) == []


def test_figures_need_matplotlib(run, monkeypatch, caplog):
    pytest.importorskip("tensorboard")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    log_report(run, ["tensorboard"], SETTINGS, RESULTS)
    assert "The trackers get no figures. Expected the library matplotlib" in caplog.text


def test_a_run_says_where_its_numbers_come_from(smoke, tmp_path):
    (origin,) = json.loads((smoke / "provenance.json").read_text())
    assert origin["command"].startswith("lowcurve study --data digits --scale smoke")
    assert origin["code"] == code_version()
    assert {"torch", "numpy", "lightning-fabric"} <= origin["packages"].keys()
    assert origin["machine"]
    data = digits()
    assert origin["data"]["name"] == "digits"
    assert {name: origin["data"][name]["examples"] for name in ("train", "validation", "test")} == {
        "train": 256,
        "validation": 64,
        "test": 64,
    }
    assert describe_origin("x", data)["data"]["test"]["digest"] == data.test.digest
    run = Run(shutil.copytree(smoke, tmp_path / "run"))
    run.add_origin({"command": "another"})
    assert [one["command"] for one in json.loads((run.folder / "provenance.json").read_text())][1] == "another"
