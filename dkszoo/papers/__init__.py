"""The papers' tables as data, the runs that reproduce them, and recipes.

A recipe is a YAML file with all settings of one result.
"""

import difflib
from pathlib import Path

from dkszoo.engine.config import check_names
from dkszoo.weights import parse_yaml

RECIPES = Path(__file__).parent / 'recipes'


def list_recipes() -> list[str]:
    """The names that `--config` accepts."""
    return sorted(path.stem for path in RECIPES.glob('*.yaml'))


def read_recipe(name: str) -> dict:
    """The settings of a recipe, by name or path of a YAML file; 'experiment' defaults to the file's name.

    Raises:
        ValueError: No such recipe (names all), or a file that is not a mapping, has unknown settings, or sets
            `overwrite`.
    """
    path = RECIPES / f'{name}.yaml'
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        what = 'no file' if name.endswith(('.yaml', '.yml')) else 'unknown recipe'
        near = difflib.get_close_matches(name, list_recipes(), 1)
        hint = f'did you mean {near[0]}? ' if near else ''
        raise ValueError(f'{what} {name!r} ({hint}recipes: {", ".join(list_recipes())}; or a YAML file)')
    try:
        settings = parse_yaml(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'recipe {str(path)!r} cannot be read: {error}') from error
    if not isinstance(settings, dict):
        raise ValueError(f'recipe {str(path)!r} is not a mapping of settings to values')
    try:
        check_names(settings)
    except ValueError as error:
        raise ValueError(f'recipe {str(path)!r}: {error}') from error
    if settings.get('overwrite'):
        raise ValueError(f'recipe {str(path)!r} would overwrite a run (only the flag --overwrite can)')
    return {'experiment': path.stem, **settings}
