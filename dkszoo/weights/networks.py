"""The networks inside a checkpoint: unwrapped, with their keys renamed to dkszoo's."""

import re
from dataclasses import dataclass

import torch

from .description import check_arguments, described, timm_settings
from .formats import FORMATS, NETWORKS, PREFIXES, WRAPPERS, branch_key, recognise, split_branch
from .read import backbone_state

State = dict[str, torch.Tensor]
LEFT_OUT = ' (without its branches: the file does not say their design)'


@dataclass(frozen=True)
class Network:
    """One network of a file.

    Attributes:
        origin: The projects whose file and whose keys these are, for messages.
        backbone: dkszoo's key -> tensor.
        branches: The same for the branches; empty if there are none.
        theirs: dkszoo's key -> the file's, for messages.
        arch: Model name given by the file, or ''.
        model_kwargs: Constructor arguments given by the file.
        design: Design of the branches; None without branches.
    """

    origin: str
    backbone: State
    branches: State
    theirs: dict[str, str]
    arch: str
    model_kwargs: dict
    design: str | dict | None


def find_networks(contents: dict) -> list[Network]:
    """The networks of a checkpoint, the default one first.

    Raises:
        ValueError: It holds none, or one that is known to compute another function under the same keys.
    """
    if own := described(contents, 'it'):
        return [own_network(contents, own)]
    wrapper = next((key for key in WRAPPERS if isinstance(contents.get(key), dict) and contents[key]), None)
    given = on_cpu(contents if wrapper is None else contents[wrapper])
    state = strip_prefixes(given)
    if not state:
        there, under = (', '.join(map(str, keys)) for keys in (list(contents)[:8], WRAPPERS))
        raise ValueError(f'it holds no state dict of tensors (its keys: {there}; looked for under: {under})')
    if backbone := task_backbone(state) or own_backbone(state):
        theirs = {key: f'backbone.{key}' for key in backbone}
        return [Network(f'DeeplySupervised{LEFT_OUT}', backbone, {}, theirs, '', {}, None)]
    if inner := [(name, part) for name in NETWORKS if (part := below(state, name))]:
        return [renamed(part, f'mdistiller checkpoint, {name}') for name, part in inner]
    if any(key.startswith('auxiliary_classifier.') for key in state):
        return [renamed(below(state, 'backbone'), 'HSAKD checkpoint, without its auxiliary classifiers')]
    if 'version' in contents and isinstance(contents.get('arch'), str):  # timm's; DHM's arch comes without a version
        kwargs = timm_settings(contents).get('model_kwargs')
        task_state = contents.get('task_state')
        origin = f'timm checkpoint{LEFT_OUT if isinstance(task_state, dict) and task_state.get("branches") else ""}'
        return [renamed(state, origin, contents['arch'], check_arguments(kwargs or {}, 'it'))]
    if wrapper is not None:
        return [renamed(state, f'{WRAPPERS[wrapper]} checkpoint')]
    return [renamed(state, 'bare state dict' if state.keys() == given.keys() else 'state dict of a wrapped network')]


def own_network(contents: dict, model: dict) -> Network:
    """The network of a training checkpoint or an export of dkszoo."""
    state = on_cpu(backbone_state(contents))
    task_state = contents.get('task_state_ema' if 'state_dict_ema' in contents else 'task_state')
    branches = task_state.get('branches') if isinstance(task_state, dict) else None
    branches = on_cpu(branches) if isinstance(branches, dict) else {}
    design = model.get('design') if branches else None
    return Network('dkszoo', state, branches, {key: key for key in state}, model['arch'], model['model_args'], design)


def on_cpu(state: dict) -> State:
    """The tensors of a dict, detached and on the CPU."""
    named = ((key, value) for key, value in state.items() if isinstance(key, str) and isinstance(value, torch.Tensor))
    return {key: value.detach().cpu() for key, value in named}


def strip_prefixes(state: State) -> State:
    """Remove the key prefixes of wrappers such as DataParallel, and the counter of torch's AveragedModel."""
    state = {key: value for key, value in state.items() if key != 'n_averaged'}
    while state and (prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None)):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def task_backbone(state: State) -> State:
    """The backbone in the state dict of a `DeepSupervisionTask`, or of a module that holds one; empty otherwise."""
    place = re.compile(r'(?:\w+\.)*trainable_module\.(?:_orig_mod\.|module\.)*net\.backbone\.')
    return {key[match.end() :]: value for key, value in state.items() if (match := place.match(key))}


def own_backbone(state: State) -> State:
    """The backbone in the state dict of a `DeeplySupervised`, which does not tell its design; empty otherwise."""
    return below(state, 'backbone') if all(key.startswith(('backbone.', 'branches.')) for key in state) else {}


def below(state: State, name: str) -> State:
    """The entries under the prefix NAME., which is removed."""
    return {key.removeprefix(f'{name}.'): value for key, value in state.items() if key.startswith(f'{name}.')}


def renamed(state: State, origin: str, arch: str = '', model_kwargs: dict | None = None) -> Network:
    """A network under dkszoo's keys, with the num_batches_tracked that old files lack."""
    paths: dict[int | None, State] = {None: {}}
    for key, value in state.items():
        path, inner = split_branch(key)
        paths.setdefault(path, {})[inner] = value
    main = paths.pop(None)
    form = recognise(main)
    theirs = {form.rename(key, main): key for key in main}
    backbone = count_batches({new: main[old] for new, old in theirs.items()})
    branches = {}
    for index, entries in enumerate(entries for _, entries in sorted(paths.items())):
        names = {form.rename(key, entries): key for key in entries}
        first = min((int(match[1]) for new in names if (match := re.match(r'layer(\d)\.', new))), default=0)
        branches |= {f'{index}.{branch_key(new, first, form.last_norm)}': entries[old] for new, old in names.items()}
    keys = "DHM's ResNet" if branches and form is FORMATS[-1] else form.name
    origin = f'{origin}, keys of {keys}{" with branches" if branches else ""}'
    design = 'dks' if branches else None
    return Network(origin, backbone, count_batches(branches), theirs, arch, model_kwargs or {}, design)


def count_batches(state: State) -> State:
    """Add a num_batches_tracked of 0 for every running_var without one."""
    filled = {}
    for key, value in state.items():
        filled[key] = value
        counter = key.removesuffix('running_var') + 'num_batches_tracked'
        if key.endswith('running_var') and counter not in state:
            filled[counter] = torch.tensor(0, device='cpu')
    return filled
