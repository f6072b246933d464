"""The example of CONTRIBUTING.md works as it stands there."""

import re
from pathlib import Path

from task_zoo import make_teacher, network, train
from torch.optim import SGD

import dkszoo
from dkszoo.losses._common import check_same_shape, promote
from dkszoo.tasks import METHODS, TERMS, Method, Term
from dkszoo.tasks.settings import LossSettings, setting

ROOT = Path(__file__).parents[2]
DOCS, CONTRIBUTING = ROOT / 'docs', ROOT / 'CONTRIBUTING.md'


def test_the_example_of_a_new_method(monkeypatch):
    blocks = re.findall(r'```python\n(.*?)```', CONTRIBUTING.read_text().partition('## Add a method')[2], re.DOTALL)
    assert sum(len(block.splitlines()) for block in blocks) < 30
    blocks = [re.sub(r'^(from|import) .*\n', '', block, flags=re.MULTILINE) for block in blocks]  # names are below
    terms, methods, rows = dict(TERMS), dict(METHODS), {}
    names = dict(check_same_shape=check_same_shape, promote=promote, Term=Term, Method=Method, setting=setting)
    names |= dict(TERMS=terms, METHODS=methods, SETTINGS=rows)
    for block in blocks:
        exec(block, names)
    monkeypatch.setitem(TERMS, 'logits', terms['logits'])
    monkeypatch.setitem(METHODS, 'logits', methods['logits'])
    design, own = rows['logits']
    for method in ('logits', 'logits+kd'):
        task = dkszoo.DeepSupervisionTask(network(design), method, teacher=make_teacher())
        history = train(task, 3, SGD(task.get_trainable_module().parameters(), lr=1e-3))
        assert history[-1]['logits'] < history[0]['logits']
    assert set(own) == {'logits'}


def test_every_method_term_and_flag_is_described():
    text = (DOCS / 'methods.md').read_text()
    for name in METHODS:
        assert f'| `{name}` |' in text
    for name in TERMS:
        assert f'**{name}**' in text
    flags = {'--' + name.replace('_', '-') for name in LossSettings.__dataclass_fields__}
    mentioned = {flag.replace('--no-', '--') for flag in re.findall(r'--[a-z0-9-]+', text)}
    weights = {flag for flag in flags if flag.endswith('-weight') or flag == '--self-kd-temperature'}
    assert flags - mentioned <= weights
