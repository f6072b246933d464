"""The card of an export: the JSON file that describes it, with checksums of the export and of the card itself."""

import hashlib
import json
import os
from pathlib import Path

from .description import check_description
from .durable import sha256, write_text
from .texts import parse_json

OWN = 'card_sha256'
NEEDED = ('arch', 'model_args', 'data', 'sha256', OWN)
GRAPHS = ('.onnx', '.pt2')  # exports of whole graphs, which cannot be loaded as weights


def card_path(path: Path) -> Path:
    """Path of a file's card: OUT.json for OUT.safetensors, else the full name and .json, so that formats coexist."""
    return path.with_suffix('.json') if path.suffix == '.safetensors' else path.with_name(f'{path.name}.json')


def write_card(path: Path, card: dict) -> dict:
    """Write the card of an export durably beside it.

    Args:
        path: The export.
        card: Plain data; 'sha256' is that of the export.

    Returns:
        The card as written, with its own checksum under 'card_sha256'.
    """
    card = {**card, OWN: checksum(card)}
    write_text(card_path(path), json.dumps(card, indent=2) + '\n')
    return card


def read_card(path: str | os.PathLike) -> dict:
    """Read the card of an export, packaged weights or a download, with everything needed to load the file.

    Raises:
        ValueError: A file is missing, damaged, or not the one the card describes.
    """
    path = Path(path)
    refuse_graph(path)
    if not path.is_file():
        raise ValueError(f'no file {str(path)!r} (an export is a .safetensors with its .json beside it)')
    if path.suffix != '.safetensors' and not card_path(path).is_file():
        raise ValueError(
            f'{str(path)!r} is not an export (dkszoo export makes one from a training checkpoint, dkszoo convert from '
            'the files of others)'
        )
    card = read_card_file(path)
    for key in NEEDED:
        if key not in card:
            raise ValueError(f'{str(card_path(path))!r} lacks {key!r}: not written by dkszoo export')
    return check_description(card, repr(str(path)))


def refuse_graph(path: Path) -> None:
    """Raise a ValueError for a file that, by its name, holds a whole graph."""
    if path.suffix in GRAPHS:
        raise ValueError(f'{str(path)!r} is a finished graph (run it with onnxruntime or torch.export.load)')


def is_card(path: Path) -> bool:
    """Whether a file is a card, even a damaged one."""
    try:
        return OWN in path.read_text(encoding='utf-8')
    except (OSError, ValueError):
        return False


def check_tag(card: dict, name: str) -> None:
    """Raise a ValueError unless the card is that of `name`, an 'arch.tag'; '' accepts any."""
    own = f'{card["arch"]}.{card.get("tag")}'
    if name and own != name:
        raise ValueError(f'the file of {name!r} holds {own!r} (two files were swapped)')


def read_card_file(path: Path) -> dict:
    """Read the card beside an export and verify its checksums.

    Raises:
        ValueError: The card is missing or damaged, or describes another file.
    """
    card = read_own_card(path)
    if 'sha256' in card and sha256(path) != card['sha256']:
        raise ValueError(f'{str(path)!r} is damaged or not the file its .json describes (SHA-256 does not match)')
    return card


def read_own_card(path: Path) -> dict:
    """Read the card of a .safetensors file, which need not exist, and verify the card's own checksum.

    Raises:
        ValueError: The card is missing or damaged.
    """
    place = card_path(path)
    try:
        card = parse_json(place.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise ValueError(f'no file {str(place)!r} (an export is a .safetensors with its .json beside it)') from None
    except ValueError as error:
        raise ValueError(f'{str(place)!r} is damaged ({error})') from error
    if not isinstance(card, dict):
        raise ValueError(f'{str(place)!r} was not written by dkszoo export')
    if OWN in card and card[OWN] != checksum(card):
        raise ValueError(f'{str(place)!r} is damaged or was edited (its own SHA-256 does not match)')
    return card


def checksum(card: dict) -> str:
    """SHA-256 of a card's contents without this checksum."""
    rest = {key: value for key, value in card.items() if key != OWN}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
