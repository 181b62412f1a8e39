"""The package: imports between modules, public names, and side effects of an import."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from mutations import MUTATIONS, mutated

import ardist
from ardist import tables

ROOT = Path(ardist.__file__).parent
PROJECT = Path(__file__).parents[1]

# The public names: each name of `ardist`, and of its modules.
SUBMODULES = [part for name in ardist.__all__ if inspect.ismodule(part := getattr(ardist, name))]
SUBMODULES.append(tables)  # which `import ardist` does not import
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (ardist, *SUBMODULES)
    for name in module.__all__
    if getattr(module, name) not in SUBMODULES
}

# Each module imports only the modules before it, except for types.
ORDER = (
    "shapes",
    "specification",
    "partition",
    "patterns",
    "ordering",
    "families",
    "layout",
    "columns",
    "constraints",
    "rows",
    "drawing_order",
    "regex",
    "rules.base",
    "rules.automaton",
    "rules.columns",
    "rules.conjunction",
    "rules.distinct",
    "rules.end",
    "rules.total",
    "rules",
    "restriction",
    "factorization",
    "decoding",
    "modes",
    "recomputation",
    "bound_network",
    "static",
    "batch",
    "scoring",
    "rollout",
    "pathwise",
    "gradients",
    "conditioning",
    "distribution",
    "mixtures",
    "smc",
    "sampling",
    "conditionals",
    "calibration",
    "information",
    "likelihood",
    "training.objectives",
    "networks.constants",
    "networks.fingerprint",
    "networks.base",
    "training.history",
    "training.processes",
    "training.batches",
    "training.checkpoints",
    "training.fitting",
    "training",
    "networks.any_set",
    "networks.masking",
    "networks.sequence",
    "networks.sizes",
    "networks.made",
    "networks.recurrent",
    "networks.wavenet",
    "networks.gated_stacks",
    "networks.locally_masked",
    "networks.pixelcnn",
    "networks.attention",
    "networks.transformer",
    "networks.mlp",
    "networks.unshared",
    "networks.markov",
    "testing",
    "networks.from_module",
    "networks.masked",
    "networks",
    "export",
    "saving",
    "transforms",
    "guides",
    "tables.frames",
    "tables.times",
    "tables.columns",
    "tables.proposals",
    "tables.schema",
    "tables.reports",
    "tables.events",
    "tables.rows",
    "tables.density",
    "tables",
    "command",
    "__main__",
)


def modules():
    """Each module's short name, with the families as one, and its path."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        yield ("families" if parts[0] == "families" else name), path


def at_run_time(node):
    """The nodes below a node, without those that only checkers of types read."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from at_run_time(child)


def test_imports_go_one_way():
    for name, path in modules():
        for node in at_run_time(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "ardist."
            ):
                continue
            source = node.module.removeprefix("ardist.")
            source = "families" if source.startswith("families") else source
            if name == "" or source == name:
                continue
            assert ORDER.index(source) < ORDER.index(name), f"{name} imports {source}"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_changes_a_line_of_the_package(mutation):
    text = (ROOT / mutation.file).read_text()
    assert mutated(text, mutation) != text


def test_the_order_names_every_module():
    assert {name for name, _ in modules()} - {""} == set(ORDER)


def test_import_leaves_torch_and_pyro_as_pyro_leaves_them():  # trap 26
    program = """
import sys, torch, pyro
def flags():
    from torch.distributions import Distribution
    return (Distribution._validate_args, pyro.distributions.Distribution is not None,
            pyro.settings.get(), torch.get_default_dtype(), torch.is_grad_enabled(),
            torch.get_rng_state().sum().item())
before = flags()
import ardist
assert flags() == before, (before, flags())
# Imported where they are used.
assert {"ardist.regex", "matplotlib", "pandas", "scipy", "sklearn"}.isdisjoint(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_no_assert_checks_user_input():
    for _, path in modules():
        assert not any(
            isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text()))
        )


SHAPED = {"reshape", "view", "expand", "permute", "repeat", "new_zeros", "new_empty", "new_full"}


def test_no_method_of_tensors_lacks_its_shape_if_that_is_empty():
    """For a single number, `x.reshape(*lead, *shape)` is `x.reshape()`, which raises."""
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                is_starred = [isinstance(argument, ast.Starred) for argument in node.args]
                if node.func.attr in SHAPED and is_starred:
                    assert not all(is_starred), f"{name}: {ast.unparse(node)}"


def test_the_api_page_documents_what_is_public():
    page = (PROJECT / "docs" / "api.md").read_text()
    documented = [
        getattr(import_module(module), name)
        for directive in re.split(r"^\.\. ", page, flags=re.MULTILINE)[1:]
        for module, name in _documented_by(directive)
    ]
    assert sorted(map(_origin, documented)) == sorted(map(_origin, PUBLIC.values()))


def _documented_by(directive):
    """Module and name of what `autoclass`, `autofunction`, or an `automodule` documents."""
    kind, name = re.match(r"auto(\w+):: (\S+)", directive).groups()
    if kind != "module":
        return [name.rsplit(".", 1)]
    (members,) = re.findall(r":members: ([\w,\s]+)$", directive, flags=re.MULTILINE)
    return [(name, member.strip()) for member in members.split(",")]


def _origin(value):
    return f"{value.__module__}.{value.__qualname__}"


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_has_an_example(name):
    assert ">>> " in inspect.getdoc(PUBLIC[name])


def test_one_version():
    citation = (PROJECT / "CITATION.cff").read_text()
    assert f"\nversion: {ardist.__version__}\n" in citation


def test_the_readme_names_the_versions_that_are_tested():
    row = next(
        line for line in (PROJECT / "README.md").read_text().splitlines() if "tested with" in line
    )
    named = re.findall(r"\[?([\w-]+)(?:\]\([^)]*\))? (\d[\d.]*\d)", row)
    pinned = (PROJECT / "constraints.txt").read_text().splitlines()
    assert len(named) == 10
    assert {f"{name}=={version}" for name, version in named} <= set(pinned)


def packages_of(*extras):
    """The packages that extras ask for, those every user has, and numpy, which Pyro needs."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], "numpy", *(f"ardist[{extra}]" for extra in extras)]
    for line in lines:  # which grows
        for own in re.findall(r"^ardist\[(.*)\]", line):
            lines += [y for x in own.split(",") for y in project["optional-dependencies"][x]]
    return {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in lines}


@pytest.mark.parametrize(
    ("folder", "extras"), [("examples", ["examples"]), ("tests", ["test", "programs"])]
)
def test_extras_ask_for_all_that_is_imported(folder, extras):
    installed, wanted = packages_distributions(), packages_of(*extras)
    paths = [*(PROJECT / folder).rglob("*.py")]
    own = {path.stem for path in (*paths, *PROJECT.glob("examples/*.py"))}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            named = node.names if isinstance(node, ast.Import) else []
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [x.name for x in named]
            for module in {name.split(".")[0] for name in modules} - own - sys.stdlib_module_names:
                packages = {name.replace("-", "_") for name in installed.get(module, [module])}
                assert packages & wanted, f"{path.name}: {module}"
