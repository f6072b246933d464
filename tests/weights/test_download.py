"""The authors' weights: downloaded once, converted, checked ever after; whatever goes wrong leaves nothing behind."""

import errno
import http.server
import io
import json
import os
import socket
import stat
import struct
import threading
import time

import pytest
import timm
import torch
import torchvision

import dkszoo
from dkszoo.weights import download, write_card

NAME = 'dks_resnet18.sun2019_in1k'
HTML = b'<!DOCTYPE html><html><title>Quota exceeded</title></html>'


class Mirror(http.server.ThreadingHTTPServer):
    """Serves `body` for the published name, in the manner of `mode`."""

    daemon_threads = True
    body, mode = b'', 'good'

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.paths = []

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}/weights'

    def handle_error(self, request, client_address):
        """No noise on stderr: the client may well have gone."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        mode, body = self.server.mode, self.server.body
        self.server.paths.append(self.path)
        if mode == 'no HTTP':
            self.wfile.write(b'220 ready\r\n')
            return
        if mode == 'missing':
            self.send_error(404)
            return
        self.send_response(200)
        page = mode in ('page', 'disguised page')
        body = HTML if page else body
        self.send_header('Content-Type', 'text/html; charset=utf-8' if mode == 'page' else 'application/octet-stream')
        if mode not in ('unannounced', 'cut, unannounced', 'endless', 'dawdles'):
            self.send_header('Content-Length', str(len(body) * (100 if mode == 'boasts' else 1)))
        self.end_headers()
        if mode in ('cut', 'cut, unannounced', 'dies'):
            body = body[: len(body) // 2]
        for i in range(100 if mode in ('endless', 'dawdles') else 1):
            self.wfile.write(body[i : i + 1] if mode == 'dawdles' else body)
            time.sleep(0.05 if mode == 'dawdles' else 0)
        if mode == 'dies':  # a reset, not an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            self.connection.close()

    def log_message(self, *args):
        """Quiet."""


def published(net: torch.nn.Module, legacy: bool = True) -> bytes:
    """A network as the authors published theirs: a bare dict with DataParallel's prefix."""
    file = io.BytesIO()
    state = {f'module.{key}': value for key, value in net.state_dict().items()}
    torch.save(state, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


@pytest.fixture(scope='module')
def resnet18():
    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


@pytest.fixture(scope='module')
def body(resnet18) -> bytes:
    return published(resnet18)


@pytest.fixture
def mirror(monkeypatch, tmp_path, body):
    server = Mirror()
    server.body = body
    threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()
    monkeypatch.setenv('DKSZOO_WEIGHTS', f'{server.url}/')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('no_proxy', '*')
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / 'home' / 'hub' / 'checkpoints'


def load() -> torch.nn.Module:
    return dkszoo.create_model('dks_resnet18', pretrained=True).eval()


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob('*'))


@pytest.mark.parametrize('mode', ['good', 'unannounced'])
def test_downloads_converts_and_keeps(mirror, cache, resnet18, mode):
    mirror.mode = mode
    images = torch.randn(1, 3, 64, 64)
    for _ in range(2):
        assert torch.equal(load()(images), resnet18(images))
    assert mirror.paths == [f'/weights/{NAME}.pth']  # once
    assert names(cache) == [f'{NAME}.json', f'{NAME}.safetensors']
    card = json.loads((cache / f'{NAME}.json').read_text())
    assert card['source']['from'] == f'{mirror.url}/{NAME}.pth'
    assert (card['data']['crop_mode'], card['data']['interpolation']) == ('squash', 'bicubic')
    model, _ = dkszoo.load(cache / f'{NAME}.safetensors')
    assert torch.equal(model(images), resnet18(images))
    smaller = dkszoo.create_model(NAME, pretrained=True, num_classes=7)
    assert smaller.num_classes == 7
    assert torch.equal(smaller.conv1.weight, resnet18.conv1.weight)


def test_what_a_killed_download_left_is_removed(mirror, cache):
    old, new = cache / f'.{NAME}.old', cache / f'.{NAME}.new'
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / f'{NAME}.pth').write_bytes(b'half')
    os.utime(old, (0, 0))
    load()
    assert (old.exists(), new.exists()) == (False, True)  # the other may still be going on


def test_a_cache_that_cannot_be_made(mirror, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match='cannot store weights in'):
        dkszoo.create_model(NAME, pretrained=True, cache_dir=tmp_path / 'file')


def test_a_folder_as_mirror_and_a_cache_of_ones_own(tmp_path, monkeypatch, resnet18, body):
    monkeypatch.setenv('DKSZOO_WEIGHTS', str(tmp_path))
    cache = tmp_path / 'a' / 'cache'
    with pytest.raises(ValueError, match=rf'no file .*{NAME}\.pth.*DKSZOO_WEIGHTS'):
        dkszoo.create_model(NAME, pretrained=True, cache_dir=cache)
    (tmp_path / f'{NAME}.pth').write_bytes(body)
    net = dkszoo.create_model(NAME, pretrained=True, cache_dir=cache)
    assert torch.equal(net.fc.weight, resnet18.fc.weight)
    assert names(cache) == [f'{NAME}.json', f'{NAME}.safetensors']
    assert len({stat.S_IMODE(file.stat().st_mode) for file in cache.iterdir()}) == 1  # that of any other file


def test_a_mirror_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('DKSZOO_WEIGHTS', '~/mirror')
    file = tmp_path / 'mirror' / f'{NAME}.pth'
    file.parent.mkdir()
    file.touch()
    assert download.fetch(NAME, '', tmp_path) == (str(file), file)


@pytest.mark.parametrize(
    ('mode', 'says'),
    [
        ('cut', 'the connection ended after'),
        ('cut, unannounced', 'is not a checkpoint, or is damaged'),
        ('dies', 'cannot download'),
        ('page', 'a web page instead of the file'),
        ('disguised page', 'is not a checkpoint, or is damaged'),
        ('missing', '404'),
        ('no HTTP', '220 ready'),
        ('endless', 'the download does not end'),
        ('boasts', 'announces'),
    ],
)
def test_a_failed_download_leaves_nothing(mirror, cache, run_cli, monkeypatch, mode, says):
    mirror.mode = mode
    monkeypatch.setattr(download, 'MOST_BYTES', 10 * len(mirror.body))
    code, _, err = run_cli('validate', '--model', NAME, '--pretrained', '--dataset', 'digits')
    last = err.splitlines()[-1]
    assert code == 2
    assert 'Traceback' not in err
    assert last.startswith('dkszoo: error: ')
    assert says in last
    assert f'{mirror.url}/{NAME}.pth' in last
    assert last.endswith('(try again, or name a mirror in DKSZOO_WEIGHTS)')
    assert names(cache) == []
    mirror.mode = 'good'
    load()


def test_a_server_that_dawdles(mirror, cache, monkeypatch):
    """Neither a byte now and then nor silence keeps anybody waiting for ever."""
    mirror.mode, asked, plain = 'dawdles', [], download.urllib.request.urlopen
    monkeypatch.setattr(download, 'LONGEST', 0.2)
    monkeypatch.setattr(
        download.urllib.request, 'urlopen', lambda *args, **how: asked.append(how) or plain(*args, **how)
    )
    with pytest.raises(ValueError, match='the download does not end'):
        load()
    assert asked == [{'timeout': download.TIMEOUT}]
    assert names(cache) == []


def test_other_networks_are_refused(mirror, cache, resnet18):
    for net, says in (
        (torchvision.models.resnet34(), 'does not fit dks_resnet18'),
        (torchvision.models.resnet18(num_classes=9), "'num_classes': 9"),
    ):
        mirror.body = published(net, legacy=False)
        with pytest.raises(ValueError, match=says):
            load()
        assert names(cache) == []


def test_code_in_the_file_is_refused_and_not_run(mirror, cache, tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / 'ran'), 'w')

    file = io.BytesIO()
    torch.save({'module.conv1.weight': Evil()}, file)
    mirror.body = file.getvalue()
    with pytest.raises(ValueError, match='holds code or objects'):
        load()
    assert not (tmp_path / 'ran').exists()
    assert names(cache) == []


def test_what_was_downloaded_first_is_held_against_the_rest(mirror, cache, body):
    load()
    weights, card = cache / f'{NAME}.safetensors', cache / f'{NAME}.json'
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r'\(SHA-256 does not match; delete .* downloaded again\)$'):
        load()

    weights.unlink()  # as it says: the same file comes again
    load()
    assert weights.read_bytes() == content

    weights.unlink()
    torch.manual_seed(1)
    mirror.body = published(torchvision.models.resnet18())
    with pytest.raises(ValueError, match='but at the first download it was'):
        load()
    assert names(cache) == [card.name]

    card.write_text(card.read_text().replace('sun2019_in1k', 'sun2018_in1k'))
    with pytest.raises(ValueError, match='does not record the first download'):
        load()
    card.unlink()
    load()
    card.unlink()
    load()  # it has come again: the weights alone say too little
    write_card(weights, {**json.loads(card.read_text()), 'tag': 'other'})
    with pytest.raises(ValueError, match=rf"holds 'dks_resnet18.other' .*delete '{weights}'"):
        load()


def test_drive_is_asked_for_the_file_and_not_its_confirm_page(monkeypatch, tmp_path):
    monkeypatch.delenv('DKSZOO_WEIGHTS', raising=False)
    asked = []
    monkeypatch.setattr(download, 'download', lambda url, file: asked.append(url))
    ids = [timm.models.get_pretrained_cfg(name).url for name in dkszoo.list_models('dks_*', pretrained=True)]
    for url in ids:
        download.fetch(NAME, url, tmp_path)
    assert asked == [
        f'https://drive.usercontent.google.com/download?id={file}&export=download&confirm=t'
        for file in (
            '1P5QA_uLyaqaSDUCVb0Kkg-UlvVoBJphc',
            '1sqhBPdzHi-X0svyBeFWEjiqveWfAohdK',
            '1zoCNTuSI0dG2JUjTLFc5vjFodVPPi6C7',
        )
    ]


def test_timm_alone_says_so_before_it_downloads_anything(mirror, cache):
    with pytest.raises(OSError, match='unknown url type: gdrive'):
        timm.create_model(NAME, pretrained=True)
    assert names(cache) == []
    assert timm.create_model(NAME).num_classes == 1000


def test_leftovers_of_killed_downloads_go(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr(download, 'STALE', -1)
    (tmp_path / f'.{NAME}.abc').mkdir()
    (tmp_path / f'.{NAME}.abc/file').touch()
    (tmp_path / f'.{NAME}.safetensors.abc.tmp').touch()
    (tmp_path / 'else').touch()
    download.sweep(tmp_path, NAME)
    assert names(tmp_path) == ['else']
    (tmp_path / f'.{NAME}.gone').symlink_to('nowhere')  # as if another process had just removed it
    download.sweep(tmp_path, NAME)
    (tmp_path / f'.{NAME}.theirs').mkdir()
    monkeypatch.setattr(download.shutil, 'rmtree', refuse)
    download.sweep(tmp_path, NAME)
