"""Recipes: YAML files with all settings of one result."""

from pathlib import Path

from dkszoo.weights import parse_yaml

RECIPES = Path(__file__).parent / 'recipes'


def list_recipes() -> list[str]:
    """The names `--config` knows."""
    return sorted(path.stem for path in RECIPES.glob('*.yaml'))


def read_recipe(name: str) -> dict:
    """The settings of a recipe, by name or by the path of a YAML file; its name is the run folder's by default.

    Raises:
        ValueError: No such recipe (names all), or a file that is not a mapping or sets `overwrite`.
    """
    path = RECIPES / f'{name}.yaml'
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        what = 'no file' if name.endswith(('.yaml', '.yml')) else 'unknown recipe'
        raise ValueError(f'{what} {name!r} (recipes: {", ".join(list_recipes())}; or a YAML file)')
    try:
        settings = parse_yaml(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'recipe {str(path)!r} cannot be read: {error}') from error
    if not isinstance(settings, dict):
        raise ValueError(f'recipe {str(path)!r} is no mapping of settings to values')
    if settings.get('overwrite'):
        raise ValueError(f'recipe {str(path)!r} would overwrite a run (only the flag --overwrite can)')
    return {'experiment': path.stem, **settings}
