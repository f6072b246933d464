"""METHODS as data, what every method does, and what it becomes at its degenerate setting."""

import copy
import logging

import pytest
import torch
from task_zoo import SETTINGS, digits, make_task, make_teacher, network, train
from timm.data import Mixup
from timm.loss import create_classification_loss
from torch.testing import assert_close

import dkszoo
from dkszoo.tasks import METHODS, TERMS, LossSettings, get_method

OWN_TERMS = [(method, term) for method, (_, terms) in SETTINGS.items() for term in terms]


def value(task, term='loss'):
    """A term on the digits with running statistics, so that it is a function of the weights alone."""
    task.eval()
    return task(*digits())[term]


def test_every_method_has_a_row_of_settings():
    assert set(SETTINGS) == set(METHODS)
    for method, (design, own) in SETTINGS.items():
        assert set(own) <= set(METHODS[method].terms)
        assert (design is None) == (METHODS[method].design is None)


def test_every_setting_is_read_by_a_term_and_every_term_is_used():
    read = {key for term in TERMS.values() for key in term.settings}
    assert read == set(LossSettings.__dataclass_fields__)
    assert {term for method in METHODS.values() for term in method.terms} == set(TERMS)


@pytest.mark.parametrize(('method', 'term'), OWN_TERMS)
def test_its_own_term_alone_falls(method, term):
    task = make_task(method, **SETTINGS[method][1][term])
    history = train(task, 8, torch.optim.Adam(task.get_trainable_module().parameters(), lr=1e-3))
    assert history[-1][term] < history[0][term]
    others = set(METHODS[method].terms) - {term}
    assert all(step[other] == 0 for step in history for other in others)


@pytest.mark.parametrize('method', SETTINGS)
def test_terms_add_up_and_reach_every_parameter(method):
    task = make_task(method)
    task.train()
    result = task(*digits())
    assert set(result) == {'loss', 'output', *METHODS[method].terms}
    terms = torch.stack([result[term] for term in METHODS[method].terms])
    assert_close(terms.sum(), result['loss'].detach())
    assert not terms.requires_grad
    result['loss'].backward()
    # Distributed training needs a gradient for each.
    missing = [name for name, p in task.get_trainable_module().named_parameters() if p.grad is None]
    assert missing == []


@pytest.mark.parametrize('labels', ['mixup', 'cutmix', 'smoothing', 'bce', 'bce-mixup'])
@pytest.mark.parametrize('method', SETTINGS)
def test_all_kinds_of_labels(method, labels):
    images, targets = digits()
    soft = 'mixup' in labels or labels == 'cutmix'
    if soft:
        alphas = {'mixup_alpha': 0.0, 'cutmix_alpha': 1.0} if labels == 'cutmix' else {'mixup_alpha': 0.4}
        images, targets = Mixup(**alphas, label_smoothing=0.1, num_classes=10)(images.clone(), targets)
    kind = 'bce' if 'bce' in labels else 'ce'
    criterion = create_classification_loss(kind, smoothing=0.1, soft_targets=soft)
    task = make_task(method, criterion)
    result = task(images, targets)
    result['loss'].backward()
    assert all(torch.isfinite(v).all() for v in result.values())
    assert all(torch.isfinite(p.grad).all() for p in task.get_trainable_module().parameters())


# -- degenerate settings -----------------------------------------------------------------------------------------------


def test_dks_without_pairs_is_ds():
    expected = value(make_task('ds'))
    assert value(make_task('dks', beta=0)) == expected
    assert value(make_task('dks', beta=((0, 0, 0),) * 3)) == expected


@pytest.mark.parametrize('settings', [{}, {'kd_on': 'main'}, {'branch_weighting': 'equal'}])
def test_dskd_with_zero_weights_is_the_baseline(settings):
    task = make_task('dskd', kd_weight=0, feature_weight=0, **settings)
    baseline = dkszoo.DeepSupervisionTask(network('mirror'), 'baseline')
    for t in (task, baseline):
        t.train()
        t(*digits())['loss'].backward()
    assert_close(task(*digits())['loss'], baseline(*digits())['loss'], rtol=0, atol=0)
    grads = [[p.grad for p in t.get_net().backbone.parameters()] for t in (task, baseline)]
    assert_close(grads[0], grads[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ('method', 'nothing'),
    [
        ('ds', {'alpha': 0}),
        ('dks', {'alpha': 0, 'beta': 0}),
        ('kd', {'kd_weight': 0}),
        ('fitnet', {'hint_weight': 0}),
        ('at', {'at_weight': 0}),
        ('vid', {'vid_weight': 0}),
        ('byot', {'alpha': 0, 'self_kd_weight': 0, 'self_feature_weight': 0}),
    ],
)
def test_a_method_of_no_weight_is_the_baseline(method, nothing):
    images, labels = digits()
    results = [task(images, labels)['loss'] for task in (make_task(method, **nothing), make_task('baseline'))]
    assert torch.equal(*results)
    assert make_task(method)(images, labels)['loss'] > results[1]


def test_kd_from_itself_is_zero():
    net = network(None)
    task = dkszoo.DeepSupervisionTask(net, 'kd', teacher=copy.deepcopy(net))
    assert value(task, 'kd') == 0


def test_the_shallow_loss_of_no_branch_is_that_of_the_main_head():
    # DSKD's Table 2, first column: the branches may be there or not.
    idle = make_task('dskd', kd_on='main')
    plain = dkszoo.DeepSupervisionTask(network(None), 'dskd', teacher=make_teacher(), kd_on='main')
    own, other = (t.get_trainable_module().terms for t in (idle, plain))
    other.load_state_dict(own.state_dict())
    assert_close(value(idle), value(plain))


@pytest.mark.parametrize('taps', [[0], [1]])
def test_the_shallow_loss_of_one_block(taps):
    # DSKD's Table 2, second and third column: one branch, whose weight is then 1.
    net = dkszoo.attach_branches(network(None), 'mirror', taps)
    results = []
    for weighting in ('loss', 'equal'):
        torch.manual_seed(3)
        task = dkszoo.DeepSupervisionTask(net, 'dskd', teacher=make_teacher(), branch_weighting=weighting)
        results.append(value(task))
    assert_close(results[0], results[1])


# -- names and sums ----------------------------------------------------------------------------------------------------


def test_a_sum_counts_a_term_once():
    both = get_method('kd+ds')
    assert both.terms == ('ce', 'kd', 'ds')
    assert both.design == 'auto'
    assert get_method('ds+dskd').design == 'auto'
    assert get_method('dskd+ds').design == 'mirror'
    assert get_method('kd+ds').resolve(LossSettings())['kd']['kd_on'] == 'main'
    assert get_method('byot').resolve(LossSettings())['ds']['alpha'] == 0.7
    assert get_method('byot').resolve(LossSettings(alpha=1.0))['ds']['alpha'] == 1.0


def test_kd_and_ds_on_the_paper_s_three_places():
    # DKS, Table 6: KD on C1, on C1 with DS, on C2 and C3 with DS.
    images, labels = digits()
    net, teacher = network('dks').eval(), make_teacher()
    output, target = net(images), teacher(images)
    ce = torch.nn.functional.cross_entropy

    def kl(z):
        p, q = (target / 5).softmax(1), (z / 5).softmax(1)
        return 25 * (p * (p / q).log()).sum(1).mean()

    supervision = sum(ce(z, labels) for z in (output.logits, *output.branch_logits))
    expected = {
        ('kd', 'main'): ce(output.logits, labels) + kl(output.logits),
        ('kd+ds', 'main'): supervision + kl(output.logits),
        ('kd+ds', 'branches'): supervision + sum(kl(z) for z in output.branch_logits),
    }
    for (method, kd_on), total in expected.items():
        task = dkszoo.DeepSupervisionTask(net, method, teacher=teacher, kd_on=kd_on, kd_temperature=5)
        assert_close(value(task), total)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"unknown method 'dsk' \(did you mean .*dks.*\? methods: baseline, ds,"):
        get_method('dsk')
    with pytest.raises(ValueError, match=r"a method is a name, got \['kd', 'ds'\]"):
        get_method(['kd', 'ds'])
    with pytest.raises(ValueError, match="unknown setting 'kd_tau'"):
        make_task('kd', kd_tau=2)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'kd_on': 'brances'}, "kd_on 'brances' is unknown .choose main or branches or both"),
        ({'kd_temperature': 0}, 'kd_temperature must be above 0'),
        ({'kd_weight': -1.0}, 'kd_weight must be at least 0'),
        ({'beta': ((0.0, -1.0), (1.0, 0.0))}, 'beta must be at least 0'),
        ({'alpha': float('nan')}, 'alpha must be at least 0 and finite'),
        ({'alpha_zero_from': 1.5}, 'alpha_zero_from must be a fraction'),
        ({'at_power': 0.5}, 'at_power must be at least 1'),
        ({'hint_stage': True}, 'hint_stage must be a whole number'),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        LossSettings(**settings)


def test_settings_at_the_ends_of_their_ranges():
    LossSettings(alpha_zero_from=1.0, at_power=1.0, synergy_eps=1e-30, kd_weight=0.0)


def test_what_a_method_needs():
    with pytest.raises(ValueError, match="method 'ds' needs branches"):
        dkszoo.DeepSupervisionTask(network(None), 'ds')
    with pytest.raises(ValueError, match="method 'dskd' needs branches"):
        dkszoo.DeepSupervisionTask(network(None), 'dskd', teacher=make_teacher())
    with pytest.raises(ValueError, match="method 'kd' needs a teacher"):
        dkszoo.DeepSupervisionTask(network(None), 'kd')
    with pytest.raises(ValueError, match="method 'dks' has no use for a teacher"):
        dkszoo.DeepSupervisionTask(network('dks'), 'dks', teacher=make_teacher())
    with pytest.raises(ValueError, match='alpha has 3 weights for 2 branches'):
        make_task('ds', alpha=(1, 1, 1))
    with pytest.raises(ValueError, match='beta must be one weight or a 3 x 3 matrix'):
        make_task('dks', beta=((0, 1), (1, 0)))
    with pytest.raises(ValueError, match='hint_stage must be 0 to 2 here, got 3'):
        make_task('fitnet', hint_stage=3)
    with pytest.raises(ValueError, match='hint_stage must be a whole number'):
        make_task('fitnet', hint_stage=1.0)


def test_a_setting_that_does_nothing_is_named(caplog):
    with caplog.at_level(logging.WARNING, 'dkszoo'):
        make_task('kd', alpha=1.0)
    assert 'alpha has no effect' in caplog.text
