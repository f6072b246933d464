"""Creating models by name."""

import difflib
import fnmatch

import timm
from torch import nn

import dkszoo.models  # noqa: F401 - registers our names with timm
from dkszoo.branches import attach_branches
from dkszoo.weights import backbone_state, load_strictly, read_pickle


def create_model(
    name: str, branches: str | None = None, taps=None, checkpoint_path: str | None = None, **timm_kwargs
) -> nn.Module:
    """A classifier by its dkszoo or timm name, with training-only branches if asked for.

    Args:
        name: Model name, with or without a tag.
        branches: Branch design ('dks', 'auto'); None: the plain backbone.
        taps: Where branches leave, see `attach_branches`.
        checkpoint_path: Weights of the backbone, loaded strictly before branches are attached.
        **timm_kwargs: As for `timm.create_model`: pretrained, num_classes, in_chans, drop_rate, ...

    Returns:
        A timm model, or a `DeeplySupervised` that holds one.

    Raises:
        ValueError: Unknown name (says the nearest), unknown design or tap, a checkpoint that does not fit.
    """
    check_name(name)
    model = timm.create_model(name, **timm_kwargs)
    if checkpoint_path:
        load_strictly(model, backbone_state(read_pickle(checkpoint_path)), f'checkpoint {checkpoint_path!r}')
    return model if branches is None else attach_branches(model, branches, taps)


def check_name(name: str) -> None:
    """Raise a ValueError that names the nearest models, unless timm or dkszoo has one of this name (and tag)."""
    if ':' in name.split('/')[0]:  # a source of timm's own, such as hf-hub: or local-dir:
        return
    arch, tag = timm.models.split_model_name_tag(name)
    if not timm.is_model(arch):
        near = difflib.get_close_matches(arch, timm.list_models(), 3)
        hint = f'did you mean {" or ".join(near)}?' if near else 'dkszoo.list_models() names ours'
        raise ValueError(f'unknown model {name!r} ({hint})')
    if tag and name not in (tags := timm.list_pretrained(f'{arch}.*')):
        raise ValueError(f'model {arch!r} has no tag {tag!r} (it has {", ".join(tags) or "none"})')


def list_models(filter: str = '', pretrained: bool = False) -> list[str]:
    """The names of dkszoo's own models, in natural order.

    Args:
        filter: Shell-style wildcard, such as 'cifar_wrn*'.
        pretrained: Only names with weights, tags included.
    """
    names = [name for prefix in ('cifar_*', 'dks_*') for name in timm.list_models(prefix, pretrained=pretrained)]
    return fnmatch.filter(names, filter) if filter else names
