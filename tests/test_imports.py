"""Who may import whom: the picture in ARCHITECTURE.md, held true by reading every file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = ("train", "eval")
RELIABILITY = "reliability"  # starts the programs and looks into what they leave

# A room of memjax and the rooms that it may import, beside itself and `errors`.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "types": set(),
    "backend": set(),
    "huge_pages": set(),
    "provenance": set(),
    "distributions": set(),
    "manifest": set(),
    "checkpoint": {"manifest"},
    "hosts": {"backend", "checkpoint"},
    "plots": set(),
    "bounds": {"types"},
    "products": {"types"},
    "nn": {"products", "types"},
    "convolution": {"products", "nn", "types"},
    "recurrent": {"types"},
    "windows": {"types"},
    "residual": {"products", "nn", "convolution", "types"},
    "matching": {"products", "nn", "memory", "types"},
    "sampling": {"types"},
    "data": {"types"},
    "memory": {"products", "nn", "types"},
    "large_memory": {"memory", "products", "types"},
    "objectives": {"bounds", "types"},
    "networks": {"products", "nn", "convolution", "types"},
    "models": {
        *("types", "distributions", "products", "nn", "memory", "networks", "residual", "matching"),
        *("recurrent", "windows", "large_memory"),
    },
    "training": {"sampling", "bounds", "types"},
    "evaluation": {"sampling", "bounds", "types"},
    "config": {"types"},
    "configs": {"config", "models", "objectives", "data", "training"},
    "workdirs": {"config"},
    "locks": {"workdirs"},
    "restoring": {"config", "configs", "workdirs", "checkpoint", "sampling", "types"},
    "memjax": {"config", "configs", "checkpoint", "training", "sampling", "restoring"},
}
# A library and the one room that may import it.
ONE_ROOM = {
    "distrax": "distributions",
    "orbax": "checkpoint",
    "tensorflow_datasets": "data",
    "chex": "bounds",
}
COMPILERS = {"jit", "pjit", "pmap"}


def modules() -> dict[str, Path]:
    """The name of every module of the library and its programs, and its file."""
    found = {}
    for package in ("memjax", *PROGRAMS, RELIABILITY):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts)] = path
    return found


def room(module: str) -> str:
    """`memjax.data.files` -> data, `memjax.__init__` -> memjax, `train.log` -> train."""
    package, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    return name if package == "memjax" and name in MAY_IMPORT else package


def imported(module: str, tree: ast.AST) -> Iterator[str]:
    """Full names of what a module imports: `from memjax import data` gives `memjax.data`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def complaints(module: str, source: str) -> list[str]:
    """What a module does that the picture forbids."""
    tree = ast.parse(source)
    found = [*_names(module, tree)]
    for name in imported(module, tree):
        found += _import(module, name)
    return found


def _import(module: str, name: str) -> Iterator[str]:
    here, library = room(module), name.partition(".")[0]
    if "_src" in name.split("."):
        yield f"{module} imports the private {name}"
    if ONE_ROOM.get(library, here) != here:
        yield f"{module} imports {library}, which only {ONE_ROOM[library]} may"
    programs = ("memjax_train", "memjax_eval", *PROGRAMS) if here != RELIABILITY else ()
    if library in (*programs, RELIABILITY) and not _is_inside(module, name):
        yield f"{module} imports {name}"
    if library == "memjax" and here not in (*PROGRAMS, RELIABILITY):
        there = room(name)
        if there != here and there != "errors" and there not in MAY_IMPORT.get(here, set()):
            yield f"{module} imports {name}"
        if here == there == "models" and not module.endswith("__init__"):
            yield f"{module} imports {name}: models do not know each other"


def _is_inside(module: str, name: str) -> bool:
    return module.partition(".")[0] == name.partition(".")[0]


def _names(module: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        name = _name(node)
        if name in COMPILERS and room(module) not in PROGRAMS:
            yield f"{module}:{node.lineno} compiles: {name}"
        if (
            isinstance(node, ast.Attribute)
            and _name(node.value) == "chex"
            and not node.attr.startswith("assert_")
        ):
            yield f"{module}:{node.lineno} uses chex for more than asserts: {node.attr}"


def _name(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
            return name
    return ""


def test_every_room_is_in_the_picture() -> None:
    rooms = {room(module) for module in modules()}
    assert rooms <= {*MAY_IMPORT, *PROGRAMS, RELIABILITY}
    unknown = [
        module
        for module in modules()
        if module.startswith("memjax.") and room(module) == "memjax" and "__init__" not in module
    ]
    assert not unknown, "a new room: say in MAY_IMPORT what it may import"


@pytest.mark.parametrize("module", modules())
def test_module_keeps_to_the_picture(module: str) -> None:
    assert complaints(module, modules()[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_import_themselves_relatively(program: str) -> None:
    # Installed they are called memjax_train and memjax_eval.
    for module, path in modules().items():
        if module.startswith(f"{program}."):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            absolute = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level]
            assert not [n.module for n in absolute if str(n.module).split(".")[0] == program]


def test_there_is_one_pmap() -> None:
    calls = [
        module
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _name(node.func) == "pmap"
    ]
    assert calls == ["train.devices"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("memjax.bounds", "from memjax import sampling"),
        ("memjax.bounds", "import memjax.sampling"),
        ("memjax.bounds", "from . import sampling"),
        ("memjax.bounds", "def f():\n    from memjax.objectives import pathwise"),
        ("memjax.types", "from memjax.bounds import elbo"),
        ("memjax.plots", "import memjax"),
        ("memjax.errors", "from memjax.types import Array"),
        ("memjax.models.vma", "from memjax.models.mem_vae import MemVAE"),
        ("memjax.models.vma", "from .mem_vae import MemVAE"),
        ("memjax.models.vma", "from memjax.objectives import pathwise"),
        ("memjax.models.vma", "from memjax import config"),
        ("memjax.objectives", "from memjax.models.mem_vae import MemVAE"),
        ("memjax.training", "import train"),
        ("memjax.training", "from train.devices import make_call"),
        ("memjax.training", "import memjax_train"),
        ("memjax.data.files", "from memjax.config import DataConfig"),
        ("memjax.models.mem_vae", "import distrax"),
        ("memjax.training", "import orbax.checkpoint as ocp"),
        ("eval.likelihood", "from orbax import checkpoint"),
        ("train.runner", "import tensorflow_datasets as tfds"),
        ("memjax.training", "import chex"),
        ("memjax.bounds", "import chex\n@chex.dataclass\nclass Terms: ..."),
        ("memjax.sampling", "import jax\n@jax.jit\ndef f(x): return x"),
        ("memjax.sampling", "from jax import pmap"),
        ("memjax.sampling", "from functools import partial\nimport jax\nf = partial(jax.jit)"),
        ("memjax.sampling", "import flax.linen as nn\nf = nn.jit(nn.Dense)"),
        ("memjax.nn", "from jax._src import core"),
        ("train.runner", "from eval import likelihood"),
        ("train.runner", "import eval.likelihood"),
        ("eval.demo", "from train import run"),
        ("eval.demo", "from memjax_train import run"),
        ("train.runner", "from reliability import kills"),
        ("memjax.training", "import reliability.kills"),
        ("reliability.kills", "import jax\n@jax.jit\ndef f(x): return x"),
    ],
)
def test_checker_sees_what_is_forbidden(module: str, source: str) -> None:
    assert len(complaints(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("memjax.bounds", "import chex\nfrom memjax.types import Array\nchex.assert_rank(1, 1)"),
        (
            "memjax.memory",
            "from memjax.products import matmul\nfrom memjax.errors import InputError",
        ),
        ("memjax.data.mnist", "import tensorflow_datasets\nfrom memjax.data.files import Npz"),
        ("memjax.models.__init__", "from memjax.models.mem_vae import MemVAE"),
        ("memjax.configs.mem_vae", "from memjax.models.mem_vae import MemVAE"),
        ("train.runner", "import jax\nimport memjax\nfrom .devices import choose\nf = jax.jit"),
        ("eval.likelihood", "import jax\nfrom memjax import data\nf = jax.jit"),
        ("reliability.kills", "import train\nfrom memjax import restore\nfrom . import parts"),
    ],
)
def test_checker_lets_the_rest_pass(module: str, source: str) -> None:
    assert complaints(module, source) == []
