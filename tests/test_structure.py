"""One place for each concept: which calls belong into which file, and what every file looks like."""

import ast
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lowcurve"
TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Call:
    """One call, or assignment to an attribute: the name it goes by, with imports resolved, and its syntax."""

    name: str
    node: ast.AST


@cache
def tree(name: str) -> ast.Module:
    """The syntax of a file."""
    return ast.parse((PACKAGE / name).read_text())


def package_files() -> list[str]:
    """Every file of the package, as written in a table: analysis/calculus.py."""
    return sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imported(module: ast.Module) -> dict[str, str]:
    """What each imported name stands for: nn -> torch.nn."""
    found = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                head = alias.name if alias.asname else alias.name.split(".")[0]
                found[alias.asname or head] = head
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """torch.autograd.grad for that very expression; `?.train` for a method of something that was not imported."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "?")
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, names)}.{node.attr}"
    return "?"


@cache
def calls(name: str) -> tuple[Call, ...]:
    """Every call in a file, and every assignment to an attribute (as `?.training =`)."""
    names, found = imported(tree(name)), []
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            name = dotted(node.func, names)
            found.append(Call(node.func.id if isinstance(node.func, ast.Name) and name == "?" else name, node))
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [Call(f"{dotted(t, names)} =", t) for t in targets if isinstance(t, ast.Attribute)]
    return tuple(found)


def named(*patterns: str) -> Callable[[Call], bool]:
    """Whether the whole name of a call is one of these patterns."""
    pattern = re.compile("|".join(patterns))
    return lambda call: pattern.fullmatch(call.name) is not None


def writes(call: Call) -> bool:
    """Whether a call changes the disk. `x.replace(y)` with one argument is a path's; a text's has two."""
    node = call.node
    if named(
        r".*\.(write_text|write_bytes|mkdir|unlink|rmdir|touch|rename|symlink_to|hardlink_to|writelines)",
        r"torch\.save|numpy\.save.*|shutil\.(?!which|disk_usage).*|os\.(remove|unlink|replace|rename|mkdir|makedirs|rmdir)",
        r"safetensors\.torch\.save_file|json\.dump|yaml\.dump|tempfile\..*|.*\.to_parquet|.*\.savefig",
    )(call):
        return True
    assert isinstance(node, ast.Call)
    if call.name == "?.replace":
        return len(node.args) == 1 and not node.keywords
    if call.name.split(".")[-1] == "open":
        given = node.args[1:] if call.name == "open" else node.args  # a path's own method takes no path
        words = [*given, *(k.value for k in node.keywords if k.arg == "mode")]
        modes = [w.value for w in words if isinstance(w, ast.Constant) and isinstance(w.value, str)]
        return any(re.fullmatch(r"[rwaxbt+]{1,3}", m) is not None and set(m) & set("wax+") != set() for m in modes)
    return False


@dataclass(frozen=True)
class Rule:
    """These calls belong into these files, the first by design and each exception for its reason."""

    belongs: Callable[[Call], bool]
    places: tuple[str, ...]
    exceptions: dict[str, str] = field(default_factory=dict)


RULES = {
    "the derivative with respect to the input": Rule(
        named(r"torch\.autograd\..*|torch\.func\..*|functorch\..*"),
        ("analysis/calculus.py",),
        {
            "analysis/replay/derivatives.py": "the derivatives of one elementwise call, at the point where it was recorded",
            "geometry/parameters.py": "the network with other weights (functional_call); no derivative is taken",
            "models/local/linear.py": "the transpose of one recorded linear operation, for many rows at once",
            "analysis/replay/recording.py": "whether a tensor hangs on the input, asked of autograd's graph",
        },
    ),
    "chance": Rule(
        named(
            r"torch\.(rand|randn|randint|randperm|normal|bernoulli|multinomial|poisson)(_like)?",
            r"torch\.(Generator|manual_seed|seed|set_rng_state)|torch\.(random|cuda)\.(manual|seed|set_rng|fork_rng).*",
            r".*\.manual_seed(_all)?|.*\.(normal|uniform|bernoulli|random|exponential)_",
            r"numpy\.random\..*|random\..*|secrets\..*",
        ),
        ("randomness.py",),
        {"data/toys.py": "the two moons are those that scikit-learn draws by NumPy's RandomState"},
    ),
    "the mode of the model": Rule(
        named(r"\?(\..*)?\.(train|eval)", r".*\.training ="),
        ("models/modes.py",),
        {
            "store/run.py": "a network that is loaded is given back in eval mode",
            "training/fit.py": "a network that is trained is left in eval mode",
            "cli/study.py": "the user's own network is put in eval mode",
            "integrations/hub.py": "a network that is loaded is given back in eval mode",
        },
    ),
    "writing to the disk": Rule(
        lambda call: not call.name.endswith(" =") and writes(call),
        ("store/files.py", "store/run.py", "store/checkpoints.py"),
        {
            "data/stored.py": "images that do not fit into memory go to a file without a name",
            "store/locks.py": "a lock is a file, which names its holder",
            "integrations/leaderboard.py": "an entry of RobustBench is in no run directory",
            "integrations/vnnlib.py": "a verifier's files are in no run directory",
            "cli/audit.py": "an audit of a network of its own has no run directory",
            "cli/report.py": "a page of several runs is in none of their directories",
        },
    ),
    "clipping to a range": Rule(
        named(r".*\.(clamp|clip|clamp_|clip_|clamp_min|clamp_max)"),
        ("analysis/norms.py", "analysis/box_projection.py"),
        {
            "data/toys.py": "points of the plane are moved into the square where they are drawn, and colors are made of hues",
            "data/examples.py": "a variance that rounding made negative",
            "report/images.py": "numbers become the grey levels of a picture",
            "report/surfaces.py": "numbers become the colors of a map",
            "analysis/sharpness.py": "an exponent beyond which a derivative is constant",
            "integrations/maite.py": "a probability of 0 has no logarithm",
            "analysis/l1.py": "moves that stay in the room of each pixel",
            "attacks/sparse_ascent.py": "numbers of pixels and lengths of steps that have a smallest value",
            "attacks/square.py": "a number of queries in one pass",
            "attacks/scaled_ascent.py": "losses above 0 that count as 0",
            "models/local/elementwise.py": "positive and negative parts of coefficients",
            "models/local/pooling.py": "positive and negative parts of coefficients",
            "models/local/regions.py": "changes of pixels that stay in ball and box, for a linear function's least value",
            "models/local/together.py": "a multiplier and a length by which bounds are divided",
            "models/local/curves.py": "an exponent beyond which a derivative is 0",
            "geometry/local_certificates.py": "positive parts of radii",
        },
    ),
    "loading a pickle": Rule(
        named(r"torch\.load|pickle\.loads?"),
        ("store/weight_files.py",),
        {"study/workers.py": "an error that this process has just pickled itself"},
    ),
    "a call of a network": Rule(
        named(r"(\?\.)*(\w+\.)*(model|network|classifier|teacher|substitute)"),
        ("network_calls.py",),
        {
            "models/conversion/recording.py": "the call is recorded, at a copy of the input",
            "models/jacobians/checking.py": "a network that is traced or recorded, at a copy of the input",
            "models/jacobians/recording.py": "the call is recorded, at a tracked copy of the input",
            "models/wrapping.py": "a network inside of another one, which is called",
            "integrations/transformers.py": "a network inside of another one, which is called with its other inputs, too",
            "papers/lcnn/moons.py": "a network of this package",
            "papers/lcnn/theorem.py": "a network of this package",
        },
    ),
}


@pytest.mark.parametrize("concept", RULES)
def test_one_place_for_each_concept(concept):
    rule = RULES[concept]
    used = {name for name in package_files() for call in calls(name) if rule.belongs(call)}
    assert used == {*rule.places, *rule.exceptions}


def test_the_rules_see_what_they_look_for(monkeypatch):
    """The table above is worth something only if a violation is noticed, under whatever name it comes."""
    violations = {
        "the derivative with respect to the input": ["from torch.autograd import grad as g\ng(y, x)", "torch.func.jvp()"],
        "chance": ["import numpy as np\nnp.random.rand()", "torch.rand(3)", "w.normal_()", "import random\nrandom.random()"],
        "the mode of the model": ["model.eval()", "self.net.train(False)", "module.training = True", "f(x).eval()"],
        "writing to the disk": [
            "open('x', 'w')", "p.open('ab')", "open('x', mode='r+')", "p.write_text('')", "p.replace(q)", "p.mkdir()",
        ],
        "clipping to a range": ["import numpy as np\nnp.clip(x, 0, 1)", "x.clamp(0, 1)"],
        "loading a pickle": ["torch.load(p)"],
        "a call of a network": ["model(x)", "self.model(x)", "jet.field.model(x)", "teacher(x)"],
    }  # fmt: skip
    innocent = "'a'.replace('a', 'b')\nopen('x')\np.open('rb')\nsteps.train(x)\ngenerator: torch.Generator\nx = 1"
    for concept, snippets in violations.items():
        for snippet in snippets:
            assert noticed(concept, snippet, monkeypatch), f"{concept}: {snippet}"
        assert not noticed(concept, f"from lowcurve import steps\n{innocent}", monkeypatch), concept
    assert set(violations) == set(RULES)


def noticed(concept: str, snippet: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(f"{__name__}.tree", lambda _: ast.parse(f"import torch\n{snippet}"))
    calls.cache_clear()
    found = any(RULES[concept].belongs(call) for call in calls("snippet"))
    monkeypatch.undo()
    calls.cache_clear()
    return found


def test_grey_levels_are_counted_where_pixels_are_read_and_drawn():
    found = {
        name
        for name in package_files()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value == 255
    }
    assert found == {
        "analysis/norms.py",
        "data/examples.py",
        "models/processors.py",
        "models/wrapping.py",
        "report/images.py",
    }


def test_no_module_for_odds_and_ends():
    words = {part for name in package_files() for part in re.split(r"[/_.]", name)}
    assert words & {"util", "utils", "helper", "helpers", "misc", "core", "lib", "tools"} == set()


def public(name: str) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """The functions and classes of a file that do not begin with an underscore."""
    for node in tree(name).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def test_everything_public_says_what_it_is():
    silent = [
        f"{name}: {node.name}" for name in package_files() for node in public(name) if not ast.get_docstring(node)
    ]
    assert silent == []
    assert [name for name in package_files() if not ast.get_docstring(tree(name)) and tree(name).body] == []


LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


def lines(node: ast.FunctionDef) -> int:
    """Count a function's lines without its docstring, which explains arguments at any length."""
    text = node.body[0] if ast.get_docstring(node) is not None else None
    return (node.end_lineno or 0) - node.lineno + 1 - ((text.end_lineno or 0) - text.lineno + 1 if text else 0)


def test_no_file_over_350_lines_and_no_function_over_60_below_its_docstring():
    files = {name for name in package_files() if len((PACKAGE / name).read_text().splitlines()) > 350}
    assert files <= set(LONG_FILES)
    functions = {
        f"{name}: {node.name}"
        for name in package_files()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef) and lines(node) > 60
    }
    assert functions <= set(LONG_FUNCTIONS)


HOLE = "\0"
ERRORS = ("InputError", "NotAvailable")


@dataclass(frozen=True)
class Message:
    """An InputError as it is written: where, and its parts with a HOLE for each value that is filled in."""

    place: str
    expected: str
    received: str
    hint: str

    def tested(self, text: str) -> bool:
        """Return whether a line of the tests' lowercase text begins with the first two words of `expected`.

        Three words of any of the three parts, anywhere in the text, count too.
        """
        begins = beginning(self.expected, 2)
        holds = [beginning(part, 3) for part in (self.expected, self.received, self.hint)]
        patterns = [f"^{start}{begins}" for start in ("", "expected ") if begins] + [part for part in holds if part]
        # One search a pattern: a pattern that starts with fixed characters is found fast, an alternation is not.
        return any(re.search(pattern.lower(), text, re.MULTILINE) is not None for pattern in patterns)


def beginning(part: str, count: int) -> str:
    """A pattern for the first words of a part up to the count-th that is no hole; "" where it has fewer."""
    pieces, left = [], count
    for word in part.split():
        pieces.append(".+?".join(map(re.escape, word.split(HOLE))))
        left -= HOLE not in word
        if not left:
            return " ".join(pieces)
    return ""


@cache
def messages() -> tuple[Message, ...]:
    """Every InputError of the package."""
    return tuple(find_messages())


def find_messages() -> Iterator[Message]:
    for name in package_files():
        for function in ast.walk(tree(name)):
            if isinstance(function, ast.FunctionDef):
                known = defaults(function) | {
                    name.id: value
                    for node in own(function)
                    if isinstance(node, ast.Assign)
                    for target in node.targets
                    for name, value in pairs(target, node.value)
                    if isinstance(name, ast.Name)
                }
                for node in own(function):
                    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
                        said = [known.get(arg.id, arg) if isinstance(arg, ast.Name) else arg for arg in node.args]
                        yield Message(f"{name}:{node.lineno}", *map(template, said))


def own(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [n for n in ast.iter_child_nodes(node) if not isinstance(n, ast.FunctionDef)]


def pairs(target: ast.AST, value: ast.AST) -> list[tuple[ast.AST, ast.AST]]:
    """Names with their values in `a = 1` and in `a, b = 1, 2`."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


def defaults(function: ast.FunctionDef) -> dict[str, ast.AST]:
    """The parameters of a function that have a default, with it."""
    values = function.args.defaults
    names = function.args.args[len(function.args.args) - len(values) :]
    return {name.arg: value for name, value in zip(names, values, strict=True)}


def template(node: ast.AST) -> str:
    """The text of an expression with a HOLE for each value."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "".join(map(template, node.values)) if isinstance(node, ast.JoinedStr) else HOLE


def texts() -> str:
    """Return every text in the other tests in lowercase, without the backslashes of regular expressions."""
    files = [path for path in TESTS.rglob("test_*.py") if path != Path(__file__)]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text())))
    found = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(found).replace("\\", "").lower()


def test_every_error_message_has_a_test():
    found, known = messages(), texts()
    assert len(found) > 60
    assert {message.expected for message in found if not message.tested(known)} == set()


def test_an_error_without_a_test_is_noticed():
    stranger = Message("here:1", "a moon of green cheese", "", "look at the sky again")
    known = ["a moon", "the sky", "green cheese", "look at", "at least a moon"]
    assert [stranger.tested(text) for text in known] == [True, False, False, False, False]
    assert stranger.tested("got 3. look at the sky again")
    filled = Message("here:2", f"the {HOLE} moons of {HOLE}", "", HOLE)
    assert [filled.tested(text) for text in ("the 3 moons of mars", "moons of", "the moons")] == [True, False, False]
    assert all(message.expected != HOLE for message in messages())


def test_the_concordance_is_current():
    """Run `python docs/concordance.py` when this fails."""
    path = TESTS.parent / "docs" / "concordance.py"
    spec = importlib.util.spec_from_file_location("concordance", path)
    assert spec is not None
    assert spec.loader is not None
    concordance = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(concordance)
    assert path.with_suffix(".md").read_text() == concordance.page()
    assert concordance.works("srinivas2022lcnn, section 3; moosavi2019cure, Eq. (1); as printed.") == [
        ("srinivas2022lcnn", "section 3"),
        ("moosavi2019cure", "Eq. (1); as printed"),
    ]
