"""Opening data sets by timm's names, and views of them that train, validate and test."""

import difflib
import logging
import os
from collections.abc import Callable, Sequence

from PIL import Image
from timm.data import create_dataset, get_img_extensions
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from .cifar import KINDS, open_cifar
from .digits import open_digits
from .idx import FOLDERS, open_idx
from .images import ArrayImages, how_to_fetch

_logger = logging.getLogger(__name__)

TRAIN = ('train', 'training')
# Data sets of small images, held in memory: name -> function (name, folder, whether to train) that opens one split.
OPENERS = {
    'digits': lambda name, data_dir, train: open_digits(train),
    **dict.fromkeys(FOLDERS, open_idx),
    **dict.fromkeys(KINDS, open_cifar),
}
FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'PPM', 'WEBP', 'TIFF')  # for EPS, Pillow would start Ghostscript
IMAGE_FOLDERS = ('', 'torch/image_folder', 'torch/folder')
# timm's prefixes besides torch and hfds, and its names after `torch/` besides the small sets.
SEQUENCES = ('hfids', 'tfds', 'wds')  # no random access, which the sample stream needs
TORCH = ('qmnist', 'imagenet', 'places365', 'inaturalist', 'inat', 'image_folder', 'folder')
TEST = ('test', 'val', 'valid', 'validation', 'eval', 'evaluation')


class View(Dataset):
    """Some samples of a data set, seen through a transform.

    `view[index]` is (transformed image, class). timm's loader sets `transform`. `targets`, one per sample, overrides
    the classes of the data set.
    """

    def __init__(self, base: Dataset, indices: Sequence[int] | None = None, mode: str = 'RGB'):
        self.base = base
        self.indices = range(len(base)) if indices is None else indices
        self.mode = mode
        self.transform: Callable | None = None
        self.targets: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int):
        image, target = read_sample(self.base, self.indices[index])
        if image.mode != self.mode:
            image = image.convert(self.mode)
        if self.targets is not None:
            target = self.targets[index]
        return self.transform(image) if self.transform is not None else image, int(target)


class UnreadableImage(ValueError):
    """An image file is damaged. The message names the file, also when raised in a worker process."""

    def __init__(self, text: str):
        super().__init__(text.rpartition(f'{type(self).__name__}: ')[2].strip())  # drop the worker's traceback


def read_sample(base: Dataset, index: int) -> tuple[Image.Image, int]:
    """Image and class of one sample.

    timm's data sets of files substitute the next image for one they cannot read, which may be of another class or in
    another part of a split.

    Raises:
        UnreadableImage: The file is not an image, or is damaged.
    """
    reader = getattr(base, 'reader', None)
    if reader is None:
        return base[index]
    mode = base.input_img_mode
    try:
        file, target, *_ = reader[index]
        with file, Image.open(file, formats=FORMATS) as opened:
            if max(opened.size) > 1000 * min(opened.size):  # resized by its short side it would fill the memory
                raise ValueError(f'it has {opened.width} x {opened.height} pixels')
            if opened.mode.startswith(('I', 'F')):  # Pillow would turn all values above 255 white
                raise ValueError(f'it has more than 8 bits per channel (mode {opened.mode})')
            image = opened.convert(mode) if mode else opened.copy()
    except Exception as error:  # Pillow can raise anything on a damaged file
        name = base.filename(index, absolute=True)
        raise UnreadableImage(f'cannot read image {name!r}: {first_line(error)} (repair or replace it)') from error
    return image, -1 if target is None else target


def check_dataset(name: str) -> None:
    """Reject names of data sets that neither dkszoo nor timm knows; timm would read most of them as an image folder.

    Raises:
        ValueError: The name is unknown (names the nearest), or the data set has no random access.
    """
    kind, slash, rest = name.lower().partition('/')
    is_torch = kind == 'torch' and (name.lower() in OPENERS or rest in TORCH)
    if name in ('', *OPENERS) or is_torch or (slash and kind == 'hfds'):  # names of OPENERS are in lower case
        return
    if slash and kind in SEQUENCES:
        raise ValueError(f'data set {name!r} can only be read in sequence (use one with random access)')
    if slash and kind != 'torch':
        wanted, known = kind, {'torch': 'torch/...', 'hfds': 'hfds/...'}
    else:
        wanted, known = rest or kind, {small.removeprefix('torch/'): repr(small) for small in OPENERS}
    near = difflib.get_close_matches(wanted, known, 1)
    hint = "choose digits, torch/cifar100, ..., or '' for the image folder --data-dir"
    if near:
        hint = f'did you mean {known[near[0]]}?'
    raise ValueError(f'data set {name!r} is unknown ({hint})')


def open_dataset(name: str, data_dir: str | None, split: str, in_chans: int = 3) -> Dataset:
    """Open one split of a data set, which returns (PIL image, class) by index.

    Args:
        name: 'digits', or a name known to timm's `create_dataset` ('torch/cifar100', 'hfds/...', '' for a folder).
        data_dir: Root folder; None for 'digits'.
        split: 'train', 'test' (or timm's synonyms), or a split name of the data set itself.
        in_chans: For the image folder '' only: 3 opens its images as RGB, any other value as gray.

    Raises:
        ValueError: Unknown name, a folder that is missing, empty or unreadable, or a data set without random access.
    """
    if name == 'digits' and data_dir:
        raise ValueError(
            f"data set 'digits' takes no folder, got {data_dir!r} (give --dataset, '' for a folder of images)"
        )
    check_dataset(name)
    kind = name.lower().partition('/')[0]
    if kind in ('', 'torch') and not data_dir:
        raise ValueError(f'data set {name!r} needs a folder (give --data-dir)')
    if kind in ('', 'torch') and not os.path.isdir(data_dir):
        advice = 'give another --data-dir'
        if small := (FOLDERS | KINDS).get(name.lower()):
            advice = how_to_fetch(small, data_dir)
        raise ValueError(f'no data folder {data_dir!r} for data set {name!r} ({advice})')
    if name.lower() in OPENERS:
        return open_small(name.lower(), data_dir, split)
    if name.lower() in IMAGE_FOLDERS:
        splits = [folder_split(data_dir, split)]
        kwargs = {} if name else dict(input_img_mode='RGB' if in_chans == 3 else 'L')
    else:  # the labels of `test` are often not public
        splits, kwargs = ['validation', 'test'] if split == 'test' else [split], {}
    failed, what = [], f'data set {name!r}' + (f' in {data_dir!r}' if data_dir else '')
    for part in splits:
        try:
            dataset = create_dataset(name, root=data_dir, split=part, **kwargs)
            break
        except (RuntimeError, AssertionError, OSError, KeyError, ImportError, ValueError) as error:
            failed.append(error)
    else:
        raise ValueError(f'cannot open {what}: {first_line(failed[0])}') from failed[0]
    if not len(dataset):
        raise ValueError(f'{what} is empty')
    return dataset


def open_small(name: str, data_dir: str | None, split: str) -> ArrayImages:
    """Open one split of a data set of small images, held in memory."""
    if split not in TRAIN + TEST:
        raise ValueError(f'data set {name!r} has no split {split!r} (choose train or test)')
    return OPENERS[name](name, data_dir, split in TRAIN)


def folder_split(data_dir: str, split: str) -> str:
    """The sub-folder of an image folder that holds `split`; 'test' falls back to validation.

    Raises:
        ValueError: No such sub-folder, or one that cannot be read.
    """
    names = {'train': TRAIN, 'test': TEST}.get(split, (split,))
    for name in names:
        if os.path.isdir(folder := os.path.join(data_dir, name)):
            check_files(folder)
            return name
    next(os.walk(data_dir, onerror=refuse_folder), None)
    raise ValueError(f'no folder {" or ".join(names[:3])} in {data_dir!r} (it needs train/CLASS and test/CLASS)')


def check_files(folder: str) -> None:
    """Reject what timm silently skips: folders that cannot be listed, or hold only images it does not read.

    Skipped images in a folder with readable ones or sub-folders only give a warning.

    Raises:
        ValueError: There is such a folder, or a link to one above it.
    """
    passed_over, read, paths = 0, get_img_extensions(), {}
    for place, folders, files in os.walk(folder, onerror=refuse_folder, followlinks=True):
        real, above = os.path.realpath(place), paths.get(os.path.dirname(place), ())
        if real in above:
            while not os.path.islink(place):  # it can be this folder itself, reached through a link
                place = os.path.dirname(place)
            raise ValueError(f'{place!r} is a link to a folder that it is in (remove the link)')
        paths[place] = (*above, real)
        kinds = [os.path.splitext(file)[1].lower() for file in files]
        others = [kind for kind in kinds if kind in IMG_EXTENSIONS and kind not in read]
        if others and not folders and not any(kind in read for kind in kinds):
            raise ValueError(
                f'folder {place!r} has no {", ".join(read)} files, and no others are read '
                f'(convert its {others[0]} files, or remove it)'
            )
        passed_over += len(others)
    if passed_over:
        _logger.warning('%s: %d images are skipped, as only %s files are read', folder, passed_over, ', '.join(read))


def refuse_folder(error: OSError) -> None:
    raise ValueError(f'cannot read folder {error.filename!r}: {error.strerror} (change its permissions, or remove it)')


def first_line(error: BaseException) -> str:
    return str(error).strip().split('\n')[0] or type(error).__name__


def class_names(dataset: Dataset) -> list[str] | None:
    """Class names in order of index, if the data set knows them."""
    names = getattr(dataset, 'classes', None)
    reader = getattr(dataset, 'reader', None)
    if names is None and reader is not None and getattr(reader, 'class_to_idx', None):
        names = sorted(reader.class_to_idx, key=reader.class_to_idx.get)
    return [str(name) for name in names] if names else None


def compare_classes(trained: Sequence[str], found: Sequence[str], words=('in training', 'here')) -> str:
    """Describe the difference of two lists of classes; `words` name their origins."""
    parts = []
    for where, names, others in zip(words, (trained, found), (set(found), set(trained)), strict=True):
        only = [name for name in names if name not in others]
        if only:
            parts.append(f'only {where} {", ".join(map(repr, only[:3]))}{" ..." if len(only) > 3 else ""}')
    return '; '.join(parts) or 'another order'


def class_targets(dataset: Dataset) -> list[int] | None:
    """The class of every sample, if known without opening the images."""
    targets = getattr(dataset, 'targets', None)
    reader = getattr(dataset, 'reader', None)
    if targets is None and reader is not None and isinstance(getattr(reader, 'samples', None), list | tuple):
        targets = [sample[1] for sample in reader.samples]
    if getattr(targets, 'ndim', 1) > 1:  # QMNIST: the first column is the class
        targets = targets[:, 0]
    return [int(t) for t in targets] if targets is not None else None
