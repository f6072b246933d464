"""The house: who may import whom, and how long a file may be (DESIGN, section 2)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / 'dkszoo'

MAY_IMPORT = {
    'models': set(),
    'branches': set(),
    'losses': set(),
    'weights': {'models'},
    'tasks': {'branches', 'losses'},
    'data': set(),
    'engine': {'models', 'weights', 'branches', 'tasks', 'data'},
    'deploy': {'models', 'weights', 'branches'},
}
MAY_IMPORT['papers'] = set(MAY_IMPORT)
MAY_IMPORT['cli'] = set(MAY_IMPORT) | {'papers'}
LEAVES = {'losses': {'torch'}, 'models': {'torch', 'timm'}, 'branches': {'torch', 'timm'}}
STDLIB_AND_DEPENDENCIES = {
    'torch',
    'torchvision',
    'timm',
    'safetensors',
    'huggingface_hub',
    'yaml',
    'tqdm',
    'numpy',
    'PIL',
}
OPTIONAL = {'sklearn', 'matplotlib', 'onnx', 'onnxscript', 'onnxruntime'}


def imported(path: Path) -> set[str]:
    """Absolute names of everything a file imports, relative imports resolved."""
    package = ('dkszoo', *path.relative_to(PACKAGE).parts[:-1])
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = '.'.join([*base, *([node.module] if node.module else [])])
            names |= {f'{module}.{alias.name}' for alias in node.names} if module == 'dkszoo' else {module}
    return names


def test_every_room_is_in_the_table():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != '__pycache__'}
    assert rooms == set(MAY_IMPORT)
    assert {path.name for path in PACKAGE.glob('*.py')} == {'__init__.py', '__main__.py'}


@pytest.mark.parametrize('room', sorted(MAY_IMPORT))
def test_imports(room):
    import sys

    for path in (PACKAGE / room).rglob('*.py'):
        for name in imported(path):
            top, *rest = name.split('.')
            if top == 'dkszoo':
                # `import dkszoo` alone is for the version
                assert not rest or rest[0] in MAY_IMPORT[room] | {room}, f'{path} imports {name}'
            elif room in LEAVES:
                assert top in LEAVES[room] or top in sys.stdlib_module_names, f'{path} imports {name}'
            else:
                known = STDLIB_AND_DEPENDENCIES | OPTIONAL
                assert top in known or top in sys.stdlib_module_names, f'{path} imports {name}'


def test_no_file_is_over_250_lines():
    for path in PACKAGE.rglob('*.py'):
        code = path.read_text()
        if path.parent.name == 'models':  # default_cfgs and the entry points after it are a table
            code = code.partition('\ndefault_cfgs = ')[0]
        assert len(code.splitlines()) <= 250, path


def test_setup_cfg_repeats_nothing_of_pyproject():
    text = (ROOT / 'setup.cfg').read_text()
    sections = [line for line in text.splitlines() if line.startswith('[')]
    assert sections == ['[tool:pytest]']
