"""Single bit flips and truncations of a checkpoint and of an export: none may load with a changed value."""

import random
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dkszoo
from dkszoo.engine.checkpoint import LAST, read_checkpoint
from dkszoo.weights import read_card

from .runs import FOLDER, PLAIN, digest, finish, start, wait


def checkpoint_contents(path: Path) -> str:
    return digest(read_checkpoint(path))


def export_contents(path: Path) -> str:
    """Weights, transform and card of an export."""
    model, transform = dkszoo.load(path)
    return digest([dict(model.state_dict()), str(transform), model.pretrained_cfg, read_card(path)])


def try_damages(path: Path, contents: Callable[[], str], damages: list[Callable[[bytes], bytes]]) -> Counter:
    """How often a damaged file was 'refused', read 'unchanged' or read 'changed'; restores the file."""
    good, expected, counts = path.read_bytes(), contents(), Counter()
    for damage in damages:
        path.write_bytes(damage(good))
        try:
            counts['unchanged' if contents() == expected else 'changed'] += 1
        except ValueError:
            counts['refused'] += 1
    path.write_bytes(good)
    return counts


def flip(bit: int) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        data = bytearray(data)
        data[bit // 8] ^= 1 << bit % 8
        return bytes(data)

    return damage


def truncate(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:size]


def header_bits(path: Path) -> list[int]:
    """All bits without a checksum in three entries of a zip file (first, middle, last) and after its directory."""
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        infos, directory = archive.infolist(), archive.start_dir
    chosen, found = {0, len(infos) // 2, len(infos) - 1}, []
    for i, info in enumerate(infos):
        header = info.header_offset
        lengths = [int.from_bytes(data[at : at + 2], 'little') for at in (header + 26, header + 28)]
        entry_end = directory + 46 + sum(int.from_bytes(data[directory + k :][:2], 'little') for k in (28, 30, 32))
        if i in chosen:
            found += [*range(header, header + 30 + sum(lengths)), *range(directory, entry_end)]
        directory = entry_end
    return [8 * byte + bit for byte in [*found, *range(directory, len(data))] for bit in range(8)]


def flips(n: int = 1000, cuts: int = 200, every: int = 1, seed: int = 0) -> bool:
    """Damage last.pth.tar and both files of an export; of the header bits, only every n-th (`every`)."""
    rng, changed = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as cwd:
        cwd = Path(cwd)
        finish(PLAIN, cwd)
        last, out = cwd / FOLDER / LAST, cwd / 'out.safetensors'
        if wait(start(('export', str(last), str(out)), cwd)):
            raise RuntimeError((cwd / 'output.txt').read_text())
        card = out.with_suffix('.json')
        of_last, of_export = lambda: checkpoint_contents(last), lambda: export_contents(out)
        headers = [flip(bit) for bit in header_bits(last)[::every]]
        tables = [
            *some(rng, 'last.pth.tar', last, of_last, n, cuts),
            ('last.pth.tar', 'every bit of headers', last, of_last, headers),
            *some(rng, 'export', out, of_export, n, cuts),
            *some(rng, 'its .json', card, of_export, n, cuts),
        ]
        print('flips  file          damage                  number  refused  unchanged  changed')
        for name, what, path, contents, damages in tables:
            counts = try_damages(path, contents, damages)
            changed += counts['changed']
            figures = (len(damages), counts['refused'], counts['unchanged'], counts['changed'])
            print('       {:12}  {:22}  {:6}  {:7}  {:9}  {:7}'.format(name, what, *figures), flush=True)
    return not changed


def some(rng: random.Random, name: str, path: Path, contents: Callable[[], str], n: int, cuts: int) -> list[tuple]:
    """Rows of the table for random damage to one file."""
    size = path.stat().st_size
    flipped = [flip(rng.randrange(8 * size)) for _ in range(n)]
    cut = [truncate(rng.randrange(size)) for _ in range(cuts)]
    return [(name, 'bits flipped', path, contents, flipped), (name, 'truncated', path, contents, cut)]
