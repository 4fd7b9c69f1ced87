"""What holds for the package as a whole: imports, layers, lanes, metadata."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tfr_pipeline"
# DESIGN section 3: a part imports only parts of a lower level. `cluster` and the
# modules at the top of the package are the ground.
LEVELS = {
    "data": 1,
    "clicks": 2,
    "model": 2,
    "losses": 2,
    "metrics": 2,
    "optimizers": 2,
    "regularization": 3,
    "serving": 3,
    "pipeline": 4,
    "graph": 3,
    "experiment": 6,
    "choosing": 7,
    "report": 5,
    "sweep": 7,
    "cli": 8,
    "__main__": 9,
    "keras": 9,
    "__init__": 9,
}
# Folders that stand below the modules beside them, and in `data` upon them.
FOUNDATIONS = ("model.layers", "losses.kernels")
DATA = ("records", "batching", "reading", "sources", "convert")


class Import(NamedTuple):
    """One `import` of a part of the package or of another project."""

    file: str
    line: int
    part: str
    target: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def part_of(path: pathlib.Path) -> str:
    """The folder, or the module for those that stand at the top."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def level(part: str) -> int:
    """Modules at the top of the package are the foundation unless listed."""
    return LEVELS.get(part, 0)


def sources() -> list[pathlib.Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: pathlib.Path) -> Iterator[Import]:
    """Yields all absolute imports of a file, those inside functions included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by absolute name"
            module = node.module or ""
            names = [module]
            if module == "tfr_pipeline":
                names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        file = path.relative_to(PACKAGE).as_posix()
        for name in names:
            yield Import(file, node.lineno, part_of(path), name)


def inner_imports() -> list[tuple[Import, str]]:
    """All imports between different parts of the package, with the part imported."""
    found = []
    for path in sources():
        for item in imports(path):
            names = item.target.split(".")
            if names[0] != "tfr_pipeline" or len(names) < 2:
                continue
            if names[1] != item.part:
                found.append((item, names[1]))
    return found


def modules() -> dict[str, pathlib.Path]:
    """All modules by their names within the package, packages included."""
    found = {}
    for path in sources():
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def module_imports() -> dict[str, set[str]]:
    """Which modules of the package each module imports, inside functions too."""
    known = modules()
    edges: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                base = node.module or ""
                names = [f"{base}.{alias.name}" for alias in node.names]
                targets = [n if n[13:] in known else base for n in names]
            elif isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                continue
            ours = (t[13:] for t in targets if t.startswith("tfr_pipeline."))
            edges[name] |= {target for target in ours if target in known} - {name}
    return edges


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Returns a circle in a graph, or nothing."""
    done: set[str] = set()

    def walk(node: str, path: tuple[str, ...]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(edges.get(node, ())):
            if found := walk(target, (*path, node)):
                return found
        done.add(node)
        return []

    return next((found for node in edges if (found := walk(node, ()))), [])


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs Python as a user would who has not imported the package before."""
    variables = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**variables, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )


def test_each_part_imports_only_parts_below_it() -> None:
    wrong = [
        str(item)
        for item, part in inner_imports()
        if level(part) >= level(item.part) and level(part) > 0
    ]
    assert not wrong


def test_the_ground_imports_nothing_but_itself() -> None:
    # `compat` and `cluster` are for all; nothing of ours is for them but errors.
    wrong = [
        str(item)
        for item, part in inner_imports()
        if item.part == "cluster" and part != "errors"
    ]
    assert not wrong


def test_no_module_imports_itself_by_a_detour() -> None:
    found = circle(module_imports())
    assert not found, " -> ".join(found)


def test_folders_do_not_import_each_other_in_a_circle() -> None:
    known = modules()

    def folder(module: str) -> str:
        inside = known[module].name == "__init__.py"
        return module if inside else module.rpartition(".")[0]

    edges: dict[str, set[str]] = {}
    for module, targets in module_imports().items():
        for target in targets:
            one, two = folder(module), folder(target)
            # A folder and the folder around it are one part.
            if (
                one
                and two
                and not f"{one}.".startswith(f"{two}.")
                and not (f"{two}.".startswith(f"{one}."))
            ):
                edges.setdefault(one, set()).add(two)
    found = circle(edges)
    assert not found, " -> ".join(found)


def test_what_others_stand_on_does_not_lean_on_them() -> None:
    wrong = []
    for module, targets in module_imports().items():
        for low in FOUNDATIONS:
            parent = low.rpartition(".")[0]
            if module.startswith(low):
                wrong += [
                    f"{module} imports {target}"
                    for target in targets
                    if target.startswith(f"{parent}.") and not target.startswith(low)
                ]
        parts = module.split(".")
        if parts[0] == "data" and len(parts) > 1:
            own = DATA.index(parts[1]) if parts[1] in DATA else -1
            wrong += [
                f"{module} imports {target}"
                for target in targets
                if target.startswith("data.")
                and target.split(".")[1] in DATA
                and DATA.index(target.split(".")[1]) > own
            ]
    assert not wrong


def test_places_that_the_architecture_names_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    places = set(re.findall(r"`((?:tfr_pipeline|launch)/[\w/.]*)`", text))
    assert len(places) > 20
    assert not [place for place in places if not (ROOT / place).exists()]


def test_the_library_does_not_import_the_users_project() -> None:
    outside = {"builders", "configs", "launch", "tests"}
    found = [
        str(item)
        for path in sources()
        for item in imports(path)
        if item.target.split(".")[0] in outside
    ]
    assert not found


def test_only_compat_imports_what_needs_the_stand_in_for_estimator() -> None:
    libraries = {"tensorflow_ranking", "neural_structured_learning"}
    found = [
        str(item)
        for path in sources()
        if path.name != "compat.py"
        for item in imports(path)
        if item.target.split(".")[0] in libraries
        or item.target.startswith(("keras", "tf_keras", "tensorflow.estimator"))
    ]
    assert not found


def test_only_compat_decides_by_a_version() -> None:
    found = []
    for path in sources():
        if path.name == "compat.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and any(
                isinstance(part, ast.Attribute) and part.attr == "__version__"
                for part in ast.walk(node)
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


def private_reads(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yields line and name of private attributes that are read of a builder."""

    def named(node: ast.expr) -> str:
        if isinstance(node, ast.Call):  # as in `type(builder)._layouts`
            return named(node.args[0]) if node.args else ""
        return getattr(node, "attr", getattr(node, "id", ""))

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        whose, what = "", ""
        if isinstance(node, ast.Attribute):
            whose, what = named(node.value), node.attr
        elif isinstance(node, ast.Call) and named(node.func) in ("getattr", "hasattr"):
            whose = named(node.args[0])
            what = str(getattr(node.args[1], "value", ""))
        private = what.startswith("_") and not what.startswith("__")
        theirs = whose.endswith("builder") or what.endswith(
            ("_feature_spec", "_creator")
        )
        if private and theirs and whose not in ("self", "cls"):
            yield node.lineno, what


def test_nobody_reaches_into_a_builder_from_another_folder() -> None:
    rooms = (PACKAGE / "pipeline" / "datasets", PACKAGE / "model")
    found = {
        f"{path.relative_to(PACKAGE)}:{line}: {name}"
        for path in sources()
        for line, name in private_reads(path)
        if not any(room in path.parents for room in rooms)
    }
    assert not found
    # Those who know TF-Ranking's names are seen by this test.
    assert list(private_reads(PACKAGE / "pipeline" / "datasets" / "adapter.py"))
    assert list(private_reads(PACKAGE / "model" / "parts.py"))


def test_help_loads_neither_tensorflow_nor_numpy_nor_pyarrow() -> None:
    done = run_python("-X", "importtime", "-m", "tfr_pipeline", "--help")
    assert done.returncode == 0, done.stderr.splitlines()[-1]
    assert "convert" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tfr_pipeline.cli.main" in loaded
    assert not loaded & {"tensorflow", "tensorflow_ranking", "numpy", "pyarrow"}


def test_both_libraries_load_with_keras_2() -> None:
    done = run_python(
        "-c",
        "import sys, tfr_pipeline\n"
        "from tfr_pipeline.compat import nsl, tf, tfr\n"
        "keras = sys.modules[tf.keras.Model.__module__.partition('.')[0]]\n"
        "print(keras.__version__, tfr.keras.losses.SoftmaxLoss.__name__,\n"
        "      nsl.keras.GraphRegularization.__name__)\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2."), done.stdout
    assert done.stdout.split()[1:] == ["SoftmaxLoss", "GraphRegularization"]


@pytest.mark.parametrize("legacy", [None, pytest.param("1", marks=pytest.mark.slow)])
def test_tensorflow_may_be_imported_first_if_its_keras_was_not_used(legacy) -> None:
    done = run_python(
        "-c",
        "import sys, tensorflow as tf\n"
        "import tfr_pipeline as tfr\n"
        "from tensorflow.keras import layers\n"
        "assert issubclass(tfr.keras.losses.SoftmaxLoss, tf.keras.losses.Loss)\n"
        "assert layers.Dense is tf.keras.layers.Dense\n"
        "assert issubclass(tf.optimizers.Adam, tf.keras.optimizers.Optimizer)\n"
        "library = tf.keras.Model.__module__.partition('.')[0]\n"
        "print(sys.modules[library].__version__)\n",
        **({} if legacy is None else {"TF_USE_LEGACY_KERAS": legacy}),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2."), done.stdout


def test_tensorflow_imported_first_with_keras_3_is_a_clear_error() -> None:
    if importlib.metadata.version("tensorflow").startswith("2.15."):
        pytest.skip("this TensorFlow has Keras 2 either way")
    done = run_python(
        "-c", "import tensorflow as tf; tf.keras.layers; import tfr_pipeline"
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: TensorFlow")
    assert "Import tfr_pipeline first" in last


@pytest.mark.parametrize("value", ["0", "False"])
def test_an_environment_that_asks_for_keras_3_is_a_clear_error(value: str) -> None:
    done = run_python("-c", "import tfr_pipeline", TF_USE_LEGACY_KERAS=value)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and "Unset the variable" in last


def requirement_names(lines: list[str]) -> set[str]:
    names = (re.match(r"[A-Za-z0-9._-]+", line) for line in lines)
    return {re.sub(r"[-_.]+", "-", name[0]).lower() for name in names if name}


@pytest.mark.parametrize("lane", ["tf221", "tf215"])
def test_constraints_pin_every_requirement(lane: str) -> None:
    pins = (ROOT / "constraints" / f"{lane}.txt").read_text().splitlines()
    assert all("==" in pin for pin in pins if pin and not pin.startswith("#"))
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    lists = [setup["options"]["install_requires"], extras["dev"], extras["docs"]]
    required = "".join(lists).split()
    assert len(required) > 10
    assert requirement_names(required) <= requirement_names(pins)


def test_installed_packages_are_those_of_a_lane() -> None:
    from packaging.requirements import Requirement

    if pathlib.Path(sys.prefix).parent != ROOT:
        pytest.skip("the environment is not one that `make setup` prepared")
    version = importlib.metadata.version("tensorflow")
    lane = "tf215" if version.startswith("2.15.") else "tf221"
    lines = (ROOT / "constraints" / f"{lane}.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    wrong = []
    for pin in pins:
        if pin.marker and not pin.marker.evaluate():
            continue
        try:
            found = importlib.metadata.version(pin.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        if not pin.specifier.contains(found, prereleases=True):
            wrong.append(f"{pin}, found {found}")
    assert not wrong


def test_metadata_is_in_setup_cfg_alone() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert "[project]" not in text
    assert (PACKAGE / "py.typed").exists()
