"""Pretrained weights of dkszoo's models: resolving a name to a tag, and a tag to its verified file."""

import os
from pathlib import Path

import timm

from .card import card_path, check_tag, read_card
from .download import cached
from .identify import own_names
from .texts import with_hint


def weighted_name(name: str) -> str:
    """The name with the tag that `pretrained=True` means: its `dks_*` tag, else its only one.

    A name that has a tag, has no weights, or is not dkszoo's is returned unchanged.

    Raises:
        ValueError: The name stands for several weights.
    """
    if name not in own_names():
        return name
    tagged = timm.list_pretrained(f'{name}.*')
    chosen = [tag for tag in tagged if tag.startswith(f'{name}.dks_')] or tagged
    if len(chosen) > 1:
        raise ValueError(f'{name!r} has several weights (name one: {", ".join(chosen)})')
    return chosen[0] if chosen else name


def pretrained_overlay(name: str, cache_dir: str | os.PathLike | None = None) -> dict[str, str]:
    """The file with the weights of a tag, as an entry for timm's pretrained_cfg, after its SHA-256 is verified.

    Args:
        name: Any timm or dkszoo name; 'arch.tag' for weights.
        cache_dir: Folder for downloads; default: torch.hub's `checkpoints`.

    Returns:
        {'file': PATH}, a .safetensors with its card beside it; empty for names without weights or not of dkszoo.

    Raises:
        ValueError: The file is damaged, is not the one its card describes, or cannot be downloaded.
    """
    if name.partition('.')[0] not in own_names():
        return {}
    cfg = timm.models.get_pretrained_cfg(name)
    if cfg.file:
        check_source(cfg, name)
        return {'file': cfg.file}
    return {'file': str(cached(name, cache_dir))} if cfg.url else {}


def check_source(cfg, name: str = '') -> None:
    """Verify the file of a pretrained_cfg, if it has a card beside it or `name` is given.

    Args:
        cfg: timm's PretrainedCfg, or a dict.
        name: The 'arch.tag' that the file must hold; '' for any.

    Raises:
        ValueError: The file is damaged, is not the one its card describes, or holds another tag.
    """
    file = cfg.get('file') if isinstance(cfg, dict) else getattr(cfg, 'file', None)
    if not file or not (name or card_path(Path(file)).is_file()):
        return
    try:
        check_tag(read_card(file), name)
    except ValueError as error:
        raise ValueError(with_hint(error, 'install dkszoo again')) from error
