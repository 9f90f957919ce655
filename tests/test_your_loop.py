"""The programs of docs/your-loop.md run with the libraries that they are written for."""

import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[1] / "docs" / "your-loop.md").read_text()
PROGRAMS = {
    heading: re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    for heading, section in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    if "```python" in section
}
NEEDS = {
    "Plain PyTorch": (),
    "Lightning": ("lightning", "torchmetrics"),
    "torchmetrics": ("torchmetrics",),
    "Hugging Face's Trainer": ("transformers", "accelerate"),
}


def test_every_program_is_run():
    assert set(PROGRAMS) == set(NEEDS)


@pytest.mark.filterwarnings("ignore")  # of other libraries
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs(name, monkeypatch, tmp_path, capsys):
    for library in NEEDS[name]:
        pytest.importorskip(library, reason=f"{library} is not installed")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(PROGRAMS[name], "your-loop.md", "exec"), {"__name__": "your_loop"})
    assert re.search("curvature|tensor", capsys.readouterr().out)
