"""Creating models by name."""

import fnmatch
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import nn

import dkszoo.models  # noqa: F401 - registers our names with timm
from dkszoo.branches import attach_branches
from dkszoo.branches.user_design import is_text_or_file
from dkszoo.weights import (
    check_model,
    check_source,
    convert,
    load_strictly,
    parse_json,
    parse_yaml,
    pretrained_overlay,
    weighted_name,
)

_logger = logging.getLogger(__name__)

# What model constructors raise for unknown arguments or unavailable weights.
WRONG_ARGUMENTS = (TypeError, AssertionError, RuntimeError, OSError, LookupError, ArithmeticError, AttributeError)


def create_model(
    name: str,
    branches: str | dict | None = None,
    taps=None,
    checkpoint_path: str | os.PathLike | None = None,
    **timm_kwargs,
) -> nn.Module:
    """A classifier by its dkszoo or timm name, with training-only branches if asked for.

    Args:
        name: Model name, with or without a tag. With `pretrained=True` an untagged name of dkszoo means its `dks_*`
            tag, else its only one; channels and classes are the tag's unless given.
        branches: Branch design ('dks', 'auto'), or a custom one as a dict or YAML file; None or 'none': the plain
            backbone.
        taps: Where branches leave, see `attach_branches`.
        checkpoint_path: Weights of the backbone, in any format `convert` knows, loaded strictly before branches are
            attached. Arguments they need that `timm_kwargs` does not give (num_classes, in_chans, shortcut) are taken
            from the file. The file's branches, if any, are not loaded: `convert` returns them.
        **timm_kwargs: As for `timm.create_model`: pretrained, num_classes, in_chans, drop_rate, ...

    Returns:
        A timm model, or a `DeeplySupervised` that holds one.

    Raises:
        ValueError: Unknown name (names the nearest), unknown design or tap, taps without branches, a checkpoint that
            does not fit, pretrained weights of dkszoo that are damaged or cannot be downloaded.
    """
    check_name(name)
    if taps is not None and branches in (None, 'none'):
        raise ValueError("taps without branches (give branches=, such as 'auto')")
    if isinstance(timm_kwargs.get('pretrained_cfg'), str):  # a tag, in timm's other spelling
        name = f'{timm.models.split_model_name_tag(name)[0]}.{timm_kwargs.pop("pretrained_cfg")}'
        check_name(name)
    if timm_kwargs.get('pretrained'):
        if cfg := timm_kwargs.get('pretrained_cfg'):
            check_source(cfg)
        else:
            name = weighted_name(name)
            check_weights(name)
            overlay = pretrained_overlay(name, timm_kwargs.get('cache_dir'))
            timm_kwargs['pretrained_cfg_overlay'] = {**overlay, **(timm_kwargs.get('pretrained_cfg_overlay') or {})}
    state, needed = weights_for(name, checkpoint_path, timm_kwargs) if checkpoint_path else (None, {})
    model = timm.create_model(name, **timm_kwargs, **needed)
    if state is not None:
        load_strictly(model, state, f'checkpoint {os.fspath(checkpoint_path)!r}')
    return model if branches in (None, 'none') else attach_branches(model, read_design(branches), taps)


def load_body(model: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Load weights strictly, but keep a classifier with another number of classes (timm's rule for `pretrained`).

    Raises:
        ValueError: Anything else does not fit.
    """
    own, names = model.state_dict(), (getattr(model, 'pretrained_cfg', None) or {}).get('classifier') or ()
    heads = [f'{name}.' for name in ((names,) if isinstance(names, str) else names)]
    head = {key: value for key, value in own.items() if key.startswith(tuple(heads))}
    if any(key in state and state[key].shape != value.shape for key, value in head.items()):
        _logger.info('%s has another number of classes: the classifier keeps its initialisation', source)
        state = {**state, **head}
    load_strictly(model, state, source)


def read_design(design: str | dict) -> str | dict:
    """A branch design: the contents of YAML or JSON if `design` names a file or is a text in braces; else `design`.

    Raises:
        ValueError: There is no such file, or it holds no design.
    """
    if isinstance(design, dict) or not is_text_or_file(str(design)):
        return design
    try:
        text = str(design) if str(design).startswith('{') else Path(design).read_text(encoding='utf-8')
        try:
            contents = parse_json(text)
        except ValueError:  # YAML has all of JSON, but for tabs
            contents = parse_yaml(text)
    except (OSError, ValueError) as error:
        raise ValueError(f'cannot read branch design {str(design)!r}: {error} (see docs/branches.md)') from error
    if not isinstance(contents, dict):
        raise ValueError(f"{str(design)!r} holds no branch design (it needs 'branches:', see docs/branches.md)")
    return contents


def weights_for(name: str, checkpoint_path: str | os.PathLike, given: dict) -> tuple[dict[str, torch.Tensor], dict]:
    """The weights in a file for a model, and the constructor arguments they need besides those given.

    Raises:
        ValueError: The file cannot be read or does not fit.
    """
    given = {key: value for key, value in given.items() if not key.startswith('pretrained')}
    converted = convert(checkpoint_path, name, **given)
    # The dropout rates that a file of ours was trained with do not concern its weights.
    needed = {k: v for k, v in converted.model_kwargs.items() if k not in given and 'drop' not in k}
    return converted.backbone, needed


def check_weights(name: str) -> None:
    """Raise a ValueError if neither timm nor dkszoo has weights of this name."""
    cfg = timm.models.get_pretrained_cfg(name)  # None for other sources that timm knows, such as hf-hub:
    if cfg is not None and not cfg.has_weights:
        raise ValueError(f'model {name!r} has no pretrained weights (dkszoo models lists tags)')


def check_name(name: str) -> None:
    """Raise a ValueError that names the nearest models, unless timm or dkszoo has one of this name (and tag)."""
    if ':' in name.split('/')[0]:  # another source that timm knows, such as hf-hub: or local-dir:
        return
    arch, tag = timm.models.split_model_name_tag(name)
    check_model(name)
    if tag and not has_tag(name):
        tags = timm.list_pretrained(f'{arch}.*')
        raise ValueError(f'model {arch!r} has no tag {tag!r} (it has {", ".join(tags) or "none"})')


def known_cfg(name: str) -> dict:
    """The `pretrained_cfg` of a model by its name, which may also be one of timm's other sources (hf-hub:).

    Raises:
        ValueError: The source cannot be read.
    """
    if ':' not in name.split('/')[0]:
        cfg = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
        return cfg.to_dict() if cfg is not None else {}
    try:
        with torch.device('meta'):
            return timm.create_model(name).pretrained_cfg
    except (ValueError, *WRONG_ARGUMENTS) as error:
        raise ValueError(f'cannot make model {name!r}: {error} (check the folder or address)') from error


def has_tag(name: str) -> bool:
    """Whether timm knows 'arch.tag', with weights or without ('untrained')."""
    try:
        return timm.models.get_pretrained_cfg(name) is not None
    except RuntimeError:
        return False


def list_models(filter: str | Sequence[str] = '', pretrained: bool = False) -> list[str]:
    """The names of dkszoo's own models, in natural order.

    Args:
        filter: Shell-style wildcard, such as 'cifar_wrn*', or several.
        pretrained: Only names with weights, tags included.
    """
    names = [name for prefix in ('cifar_*', 'dks_*') for name in timm.list_models(prefix, pretrained=pretrained)]
    patterns = [filter or '*'] if isinstance(filter, str) else filter
    return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
