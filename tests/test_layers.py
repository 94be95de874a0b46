"""Imports point down, style holds, and nothing that the design forbids is there."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Lowest first. A module's layer is the longest prefix that matches its name.
LAYERS = {
    'jaxmed': 5, 'jaxmed.types': 0, 'jaxmed.errors': 0,
    'jaxmed.models': 1, 'jaxmed.data': 1, 'jaxmed.smear': 1, 'jaxmed.ct': 1,
    'jaxmed.pose': 1, 'jaxmed.losses': 1,
    'jaxmed.metrics': 1, 'jaxmed.optimizers': 1, 'jaxmed.checkpoint': 1,
    'jaxmed.transforms': 1, 'jaxmed.classification': 1,
    'jaxmed.classification.figures': 2, 'jaxmed.classification.sections': 2,
    'jaxmed.predict': 2, 'jaxmed.report': 2, 'jaxmed.tasks': 2, 'jaxmed.train': 3,
    'jaxmed.evaluate': 3, 'jaxmed.findings': 3, 'jaxmed.progress': 3,
    'jaxmed.runs': 4, 'jaxmed.benchmark': 4, 'jaxmed.jobs': 5, 'launch': 6,
    'configs': 6,
}


def layer(module):
    parts = module.split('.')
    for end in range(len(parts), 0, -1):
        if '.'.join(parts[:end]) in LAYERS:
            return LAYERS['.'.join(parts[:end])]
    return None


def modules():
    for folder in ('jaxmed', 'launch', 'configs'):
        for path in sorted((ROOT / folder).rglob('*.py')):
            yield '.'.join(path.relative_to(ROOT).with_suffix('').parts), path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f'{node.module}.{name.name}' for name in node.names)


def test_imports_point_down():
    for module, path in modules():
        for target in imports(path):
            if layer(target) is not None:
                assert layer(target) <= layer(module), f'{module} imports {target}'


def test_models_see_no_data_and_the_trainer_no_task():
    for module, path in modules():
        for target in imports(path):
            if module.startswith('jaxmed.models'):
                assert not target.startswith('jaxmed.data'), module
            if module == 'jaxmed.train':
                assert not target.startswith('jaxmed.tasks')


def test_nothing_is_pickled_registered_or_called_utils():
    for module, path in modules():
        assert not {'pickle', 'importlib.import_module'} & set(imports(path)), module
        assert 'allow_pickle=True' not in path.read_text(), module
        assert path.stem not in ('utils', 'common', 'helpers', 'base'), module


def test_the_code_passes_flake8_and_isort():
    folders = ('jaxmed', 'launch', 'configs', 'tests')
    for tool in (['flake8'], ['isort', '--check', '--quiet']):
        done = subprocess.run(
            [sys.executable, '-m', *tool, *folders], cwd=ROOT, capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
