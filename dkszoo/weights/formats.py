"""State-dict keys of public code bases, mapped to dkszoo's.

A `Format` renames the keys of one network. The wrappers around a network in a file, and the names of DKS's and DHM's
branches, are common to all formats; they are at the end.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One code base's keys for one family of networks.

    Attributes:
        name: Code base and family, for messages.
        mark: Pattern of a key that only this format has.
        rename: (key, all keys of this path) -> dkszoo's key; unknown keys are returned unchanged.
        last_norm: dkszoo's name of the norm between the last stage and the pool, which branches have too; '' if none.
    """

    name: str
    mark: str
    rename: Callable[[str, Collection[str]], str]
    last_norm: str = ''


def same(key: str, keys: Collection[str]) -> str:
    return key


def dks_wrn(key: str, keys: Collection[str]) -> str:
    """The official code's flat dict, where convolutions have no '.weight'."""
    layers = {'bn0': 'bn1', 'conv0': 'conv1', 'bn1': 'bn2', 'conv1': 'conv2', 'convdim': 'shortcut'}
    if match := re.fullmatch(r'group(\d)\.block(\d+)\.(\w+)(\.\w+)?', key):
        stage, block, layer, entry = match.groups()
        return f'layer{int(stage) + 1}.{block}.{layers.get(layer, layer)}{entry or ".weight"}'
    return 'conv1.weight' if key == 'conv0' else re.sub(r'^bn\.', 'bn1.', key)


def dhm_wrn(key: str, keys: Collection[str]) -> str:
    return re.sub(r'^(conv|bn)\.', r'\g<1>1.', key)


def repdistiller_wrn(key: str, keys: Collection[str]) -> str:
    return re.sub(r'^block(\d)\.layer\.', r'layer\1.', key).replace('.convShortcut.', '.shortcut.')


def dhm_densenet(key: str, keys: Collection[str]) -> str:
    """DHM's transition is the last module of dkszoo's stage."""
    if match := re.match(r'transition(\d)\.', key):
        stage = f'layer{match[1]}.'
        depth = 1 + max((int(k.split('.')[1]) for k in keys if k.startswith(stage)), default=-1)
        return f'{stage}{depth}.{key[match.end() :]}'
    return key


def repdistiller_resnet(key: str, keys: Collection[str]) -> str:
    """RepDistiller's second ResNet file, with ImageNet's widths."""
    return re.sub(r'^linear\.', 'fc.', key.replace('.shortcut.', '.downsample.'))


def repdistiller_vgg(key: str, keys: Collection[str]) -> str:
    """Blocks count conv, norm and ReLU; dkszoo's stages count units, start with the pooling, and merge the last two."""
    match = re.fullmatch(r'block(\d)\.(\d+)\.(\w+)', key)
    if not match or int(match[2]) % 3 == 2:
        return re.sub(r'^classifier\.', 'fc.', key)
    block, (unit, part) = int(match[1]), divmod(int(match[2]), 3)
    if block == 4:
        unit += sum(bool(re.fullmatch(r'block3\.\d+\.running_var', k)) for k in keys)
    return f'layer{min(block, 3) + 1}.{unit + (block > 0)}.{("conv", "bn")[part]}.{match[3]}'


def repdistiller_mobilenet_v2(key: str, keys: Collection[str]) -> str:
    """RepDistiller has rows of blocks; dkszoo groups them into stages of one resolution each.

    Raises:
        ValueError: The network is HSAKD's, which has the same shapes but computes another function.
    """
    if key.startswith('classifier.') and not key.startswith('classifier.0.'):
        raise ValueError("this MobileNetV2 is HSAKD's, whose stem has stride 1 (ours is RepDistiller's, of stride 2)")
    stages = ((1, 0), (1, 1), (2, 0), (3, 0), (3, 4), (4, 0), (4, 3))  # per row: its stage, blocks before it there
    layers = {'0': 'conv_pw', '1': 'bn1', '3': 'conv_dw', '4': 'bn2', '6': 'conv_pwl', '7': 'bn3'}
    match = re.fullmatch(r'blocks\.([0-6])\.(\d+)\.conv\.(\d)\.(\w+)', key)
    if match and match[3] in layers:
        stage, before = stages[int(match[1])]
        return f'layer{stage}.{before + int(match[2])}.{layers[match[3]]}.{match[4]}'
    key = re.sub(r'^conv([12])\.0\.', r'conv\1.', key)
    return re.sub(r'^classifier\.0\.', 'fc.', re.sub(r'^conv([12])\.1\.', r'bn\1.', key))


def repdistiller_shufflenet_v2(key: str, keys: Collection[str]) -> str:
    """RepDistiller numbers the convolutions of a unit: five in the first unit of a stage, three in the others."""
    down = {'1': 'left_dw', '2': 'left_pw', '3': 'right_pw1', '4': 'right_dw', '5': 'right_pw2'}
    basic = {'1': 'pw1', '2': 'dw', '3': 'pw2'}
    if match := re.fullmatch(r'(layer\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)', key):
        stage, unit, part, number, entry = match.groups()
        layer = (basic if int(unit) else down).get(number)
        return f'{stage}.{unit}.{layer}.{part}.{entry}' if layer else key
    return re.sub(r'^linear\.', 'fc.', key)


# The first format whose mark a file has is used; the last matches everything else and keeps the keys.
FORMATS = (
    Format("DKS's WRN", r'group0\.block0\.conv0', dks_wrn, 'bn1'),
    Format("DHM's WRN", r'conv\.weight', dhm_wrn, 'bn1'),
    Format("RepDistiller's WRN", r'block1\.layer\.0\.conv1\.weight', repdistiller_wrn, 'bn1'),
    Format("DHM's DenseNet", r'transition1\.conv\.weight', dhm_densenet, 'bn'),
    Format("RepDistiller's ResNet50", r'layer\d\.0\.shortcut\.0\.weight', repdistiller_resnet),
    Format("RepDistiller's VGG", r'block0\.0\.weight', repdistiller_vgg),
    Format("RepDistiller's MobileNetV2", r'blocks\.0\.0\.conv\.0\.weight', repdistiller_mobilenet_v2),
    Format("RepDistiller's ShuffleV2", r'layer1\.0\.conv5\.weight', repdistiller_shufflenet_v2),
    Format("torchvision's ResNet, timm or dkszoo", r'.*', same),
)

# Keys of averaged weights (EMA).
AVERAGED = ('state_dict_ema', 'model_ema')
# Keys under which a file may hold its state dict, in order of preference, and the projects that use them.
WRAPPERS = {
    'state_dict_ema': 'timm',
    'model_ema': 'torchvision or timm',
    'state_dict': 'timm or DHM',
    'model': 'RepDistiller, SemCKD, mdistiller or torchvision',
    'model_state_dict': 'PyTorch',
    'params': 'official DKS',
    'net': 'pytorch-cifar or HSAKD',
}
# Prefixes that torch, timm and wrapper modules put before every key. (No dkszoo or timm network has such keys itself.)
PREFIXES = ('module.', '_orig_mod.', 'model.', 'net.')
# The networks in an mdistiller file, among other entries of its distiller.
NETWORKS = ('student', 'teacher')


def recognise(keys: Collection[str]) -> Format:
    """The format of a network's keys.

    Raises:
        ValueError: There are no keys.
    """
    if not keys:
        raise ValueError('it has branches, but no network')
    return next(f for f in FORMATS if any(re.fullmatch(f.mark, key) for key in keys))


def split_branch(key: str) -> tuple[int | None, str]:
    """The branch a key belongs to (0: the shallowest; None: the main path) and its key within that path.

    DKS: ep1_NAME, ep2_NAME. DHM: NAME_head2, NAME_head1, numbered from deep to shallow.
    """
    if match := re.match(r'ep([12])_', key):
        return int(match[1]) - 1, key[match.end() :]
    if match := re.match(r'(\w+)_head([12])\.', key):
        return 2 - int(match[2]), f'{match[1]}.{key[match.end() :]}'
    return None, key


def branch_key(key: str, first: int, last_norm: str) -> str:
    """dkszoo's key within a branch for a key named as in the main path; `first` is the branch's first stage.

    Raises:
        ValueError: The branch has an entry that none of the public designs has.
    """
    if match := re.match(r'layer(\d)\.', key):
        return f'stages.{int(match[1]) - first}.{key[match.end() :]}'
    if key.startswith('fc.'):
        return f'head.{key}'
    if last_norm and key.startswith(f'{last_norm}.'):
        return f'norm.0.{key.removeprefix(last_norm + ".")}'
    raise ValueError(f'a branch holds {key!r}, which is in none of the public designs')
