"""The README of a hub folder, part by part."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import dkszoo
from dkszoo.deploy import export_hub
from dkszoo.deploy.citations import PAPERS
from dkszoo.deploy.hub import read_results
from dkszoo.deploy.model_card import fact_lines, model_card, recipe

ROOT = Path(__file__).parents[2]
CARD = {
    'arch': 'cifar_resnet8',
    'method': 'dks',
    'ema': True,
    'epoch': 3,
    'num_params': 1234,
    'flops': 5678,
    'verified': 'yes',
    'sha256': 'abc',
    'data': {'input_size': [1, 32, 24]},
    'timm': False,
}


def test_facts():
    cells = [line.strip('| ').split(' | ') for line in fact_lines(CARD, 'mit')[2:]]
    assert cells == [
        ['architecture', '`cifar_resnet8`'],
        ['parameters', '1,234'],
        ['FLOPs of an image of 1x32x24', '5,678'],
        ['method', '`dks`'],
        ['weights', 'averaged (EMA), after epoch 4'],
        ['verified', 'yes'],
        ['SHA-256 of `model.safetensors`', '`abc`'],
        ['licence of the weights', 'mit'],
    ]


def test_what_the_hub_reads():
    text = model_card(CARD, {}, {}, 'mit')
    assert yaml.safe_load(text.split('---\n')[1]) == {
        'license': 'mit',
        'library_name': 'timm',
        'pipeline_tag': 'image-classification',
        'tags': ['image-classification', 'timm', 'dkszoo', 'dks'],
    }
    assert '# cifar_resnet8, trained with dks on an image folder\n' in text


def test_its_program_loads_the_folder(checkpoint, tmp_path):
    path, net = checkpoint
    export_hub(path, tmp_path / 'hub')
    code = re.search(r'```python\n(.*?)```', (tmp_path / 'hub/README.md').read_text(), re.S)[1]
    made = {}
    exec(code.replace('FOLDER', str(tmp_path / 'hub')), made)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(made['model'](images), net.eval()(images).logits)
    _, transform = dkszoo.load(tmp_path / 'hub/model.safetensors')
    image = Image.fromarray(torch.randint(256, (40, 50, 3), dtype=torch.uint8).numpy())
    assert torch.equal(made['transform'](image), transform(image))


@pytest.mark.parametrize('name', PAPERS)
def test_preprints_are_articles(name):
    paper = PAPERS[name]
    kind = 'inproceedings' if paper.venue else 'article'
    where = f'booktitle = {{{paper.venue}}}' if paper.venue else f'journal = {{arXiv preprint arXiv:{paper.arxiv}}}'
    assert paper.bibtex.startswith(f'@{kind}{{{paper.key},\n')
    assert f'  {where},\n' in paper.bibtex


@pytest.mark.parametrize('name', PAPERS)
def test_papers_are_those_of_the_pages(name):
    pages = [ROOT / 'README.md', ROOT / 'docs/methods.md']
    assert f'arxiv.org/abs/{PAPERS[name].arxiv}' in ''.join(page.read_text(encoding='utf-8') for page in pages)


def test_what_is_only_of_the_run_is_in_no_recipe():
    run = {'experiment': 'x', 'resume': 'a.pth.tar', 'overwrite': True, 'export': 'o.onnx'}
    run |= {'workers': 4, 'log_interval': 10, 'recovery_interval': 5}
    assert yaml.safe_load(recipe({'lr': 0.1, **run})) == {'lr': 0.1}


def test_what_is_zero_or_off_is_in_a_recipe():
    off = {'pad': 0, 'hflip': 0.0, 'val_split': 0.0, 'model_ema': False}
    assert yaml.safe_load(recipe({**off, 'aa': None, 'model_kwargs': {}})) == off


RECORDS = {
    'damaged': '{"settings": ',
    'list': '[1]',
    'not finished': '{"settings": {"model_ema": false}}',
    'no result': '{"settings": {"model_ema": false}, "result": null}',
    'best as list': '{"settings": {"model_ema": false}, "result": {"best": [1.0]}}',
}


@pytest.mark.parametrize('name', RECORDS)
def test_records_that_tell_no_figures(tmp_path, name):
    (tmp_path / 'run.json').write_text(RECORDS[name])
    assert read_results(tmp_path / 'model_best.pth.tar', {'ema': False}) == {}
