"""Entry points of torch.hub: every model of dkszoo by its name, and `create_model` for timm's.

    net = torch.hub.load('PATH', 'cifar_wrn16_2', source='local', num_classes=10, branches='dks')

Only the dependencies must be installed. A tag with weights has an entry point of its own, with '_' for its dot.
"""

dependencies = ['torch', 'torchvision', 'timm', 'numpy', 'PIL', 'safetensors', 'huggingface_hub', 'yaml', 'tqdm']

import timm as _timm  # noqa: E402 - a name without underscore would be an entry point

import dkszoo as _dkszoo  # noqa: E402

create_model = _dkszoo.create_model


def _entry_point(name: str, with_weights: bool):
    """A function that makes the model `name`."""

    def entry_point(
        pretrained: bool = with_weights,
        branches: str | None = None,
        taps=None,
        checkpoint_path: str | None = None,
        **kwargs,
    ):
        return _dkszoo.create_model(
            name, branches=branches, taps=taps, checkpoint_path=checkpoint_path, pretrained=pretrained, **kwargs
        )

    arch, _, tag = name.partition('.')
    entry_point.__doc__ = (_timm.models.model_entrypoint(arch).__doc__ or arch).strip().splitlines()[0]
    if tag:
        entry_point.__doc__ = f'{entry_point.__doc__} Weights: {tag}.'
    entry_point.__name__ = entry_point.__qualname__ = name.replace('.', '_').replace('-', '_')
    return entry_point


def _entry_points() -> dict:
    """All entry points of models, by name."""
    made = [_entry_point(name, False) for name in _dkszoo.list_models()]
    made += [_entry_point(name, True) for name in _dkszoo.list_models(pretrained=True)]
    return {entry_point.__name__: entry_point for entry_point in made}


globals().update(_entry_points())
