"""Every term on given outputs, against its formula written out another way."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from dkszoo.branches import DeepOutput
from dkszoo.losses import attention_loss, byot_self_kd_loss, synergy_loss
from dkszoo.tasks import TERMS, Batch, Context, TeacherOutput
from dkszoo.tasks.terms.stages import hint_regressor


def make_batch(size=4, classes=7, seed=0, dtype=torch.float64, scale=2.0):
    """Outputs of a network with two branches and of a teacher; the maps differ in channels and in size."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, scale=1.0):
        return (torch.randn(size, *shape, generator=generator, dtype=torch.float64) * scale).to(dtype).requires_grad_()

    output = DeepOutput(
        logits=draw(classes, scale=scale),
        branch_logits=(draw(classes, scale=scale), draw(classes, scale=scale)),
        features=draw(6, 4, 4),
        branch_features=(draw(5, 4, 4), draw(8, 8, 8)),
        stages=(draw(4, 8, 8), draw(6, 4, 4)),
    )
    teacher = TeacherOutput(draw(classes, scale=scale), draw(9, 4, 4), (draw(5, 8, 8), draw(9, 2, 2)))
    target = torch.randint(classes, (size,), generator=generator)
    return Batch(output, target, teacher, output.stages, nn.CrossEntropyLoss())


def make_term(name, batch, **settings):
    """A term in double precision, in training mode, with the same parameters every time."""
    torch.manual_seed(0)
    net = SimpleNamespace(branches=batch.output.branch_logits)
    return TERMS[name](Context(net, batch), {**TERMS[name].settings, **settings}).double()


def kl(teacher, student, tau=1.0):
    """Per sample."""
    p, q = (teacher / tau).softmax(1), (student / tau).softmax(1)
    return (p * (p / q).log()).sum(1)


BATCH = make_batch()
OUTPUT, TARGET, TEACHER = BATCH[:3]
BRANCHES = OUTPUT.branch_logits


# -- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('alpha', [1.0, (0.25, 3.0)])
def test_ds(alpha):
    weights = (alpha, alpha) if isinstance(alpha, float) else alpha
    expected = sum(a * F.cross_entropy(z, TARGET) for a, z in zip(weights, BRANCHES, strict=True))
    assert_close(make_term('ds', BATCH, alpha=alpha)(BATCH), expected)
    assert_close(make_term('ce', BATCH, ce_weight=0.5)(BATCH), 0.5 * F.cross_entropy(OUTPUT.logits, TARGET))


@pytest.mark.parametrize(
    ('settings', 'factors'),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({'alpha_schedule': 'linear'}, [1, 0.8, 0.6, 0.4, 0.2]),
        ({'alpha_schedule': 'zeroing'}, [1, 1, 1, 0, 0]),
        ({'alpha_schedule': 'zeroing', 'alpha_zero_from': 0.2}, [1, 0, 0, 0, 0]),
        ({'alpha_schedule': 'zeroing', 'alpha_zero_from': 1.0}, [1, 1, 1, 1, 1]),
    ],
)
def test_alpha_follows_its_schedule(settings, factors):
    term = make_term('ds', BATCH, **settings)
    full = make_term('ds', BATCH)(BATCH)
    for epoch, factor in enumerate(factors):
        term.set_progress(epoch / 5)
        assert_close(term(BATCH), factor * full, rtol=1e-6, atol=0)
    assert not term.state_dict()
    last = term.scale.clone()
    term.to('meta').to_empty(device='cpu')  # of arbitrary values
    assert torch.equal(term.scale, last)


# -- teacher -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('scale_tau2', [True, False])
@pytest.mark.parametrize('kd_on', ['main', 'branches', 'both'])
def test_kd(kd_on, scale_tau2):
    term = make_term('kd', BATCH, kd_on=kd_on, kd_temperature=3.0, kd_scale_tau2=scale_tau2, kd_weight=0.9)
    heads = {'main': [OUTPUT.logits], 'branches': BRANCHES, 'both': [OUTPUT.logits, *BRANCHES]}[kd_on]
    expected = 0.9 * sum(kl(TEACHER.logits, z, 3.0).mean() for z in heads) * (9 if scale_tau2 else 1)
    assert_close(term(BATCH), expected)


@pytest.mark.parametrize('weighting', ['loss', 'equal'])
def test_kd_of_dskd(weighting):
    # Equations 1 to 3 and 7, sample by sample.
    term = make_term('kd', BATCH, kd_on='both', kd_scale_tau2=False, branch_weighting=weighting)
    expected = 0.0
    losses = torch.stack([kl(TEACHER.logits, z, 4.0) for z in BRANCHES]).detach()
    for b in range(4):
        for z, loss in zip(BRANCHES, losses, strict=True):
            weight = loss[b] / losses[:, b].sum() if weighting == 'loss' else 1 / 2
            expected = expected + weight * kl(TEACHER.logits, z, 4.0)[b] / 4
    expected = expected + kl(TEACHER.logits, OUTPUT.logits, 4.0).mean()
    value = term(BATCH)
    assert_close(value, expected)
    heads = [OUTPUT.logits, *BRANCHES]
    assert_close(torch.autograd.grad(value, heads), torch.autograd.grad(expected, heads))


def test_gradient_through_the_weights_of_dskd():
    term = make_term('kd', BATCH, kd_on='branches', branch_weighting='loss', branch_weight_grad=True)
    losses = torch.stack([16 * kl(TEACHER.logits, z, 4.0) for z in BRANCHES])
    expected = (losses / losses.sum(0) * losses).sum(0).mean()
    value = term(BATCH)
    assert_close(value, expected)
    assert_close(torch.autograd.grad(value, BRANCHES), torch.autograd.grad(expected, BRANCHES))
    stopped = make_term('kd', BATCH, kd_on='branches', branch_weighting='loss')(BATCH)
    assert_close(stopped, value)
    assert not torch.allclose(torch.autograd.grad(stopped, BRANCHES)[0], torch.autograd.grad(term(BATCH), BRANCHES)[0])


def test_gradient_through_the_weights_of_features():
    values = [make_term('feature', BATCH, branch_weight_grad=through)(BATCH) for through in (False, True)]
    assert_close(*values)
    stopped, passed = (torch.autograd.grad(value, OUTPUT.branch_features)[0] for value in values)
    assert not torch.allclose(stopped, passed)


def test_no_gradient_through_the_weights_where_all_losses_are_zero():
    same = BATCH._replace(teacher=TEACHER._replace(logits=BRANCHES[0].detach()))
    same = same._replace(output=OUTPUT._replace(branch_logits=(BRANCHES[0], BRANCHES[0])))
    value = make_term('kd', BATCH, kd_on='branches', branch_weighting='loss', branch_weight_grad=True)(same)
    assert value == 0
    assert not torch.autograd.grad(value, BRANCHES[0])[0].isnan().any()


def batch_norm(x):
    return (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize('form', ['mean', 'sum', 'conv', 'pooled', 'pooled sum'])
@pytest.mark.parametrize('weighting', ['loss', 'equal'])
def test_feature_of_dskd(weighting, form):
    # Equations 4 to 6 and 8. The second branch's 8x8 map is averaged down to the teacher's 4x4.
    term = make_term(
        'feature',
        BATCH,
        branch_weighting=weighting,
        feature_projection='conv' if form == 'conv' else 'conv-bn',
        feature_map='pooled' if 'pooled' in form else 'spatial',
        feature_reduction='sum' if 'sum' in form else 'mean',
    )
    losses = []
    for r, m in zip(term.projections, [OUTPUT.features, *OUTPUT.branch_features], strict=True):
        projected = torch.einsum('oi,bihw->bohw', r.conv.weight[:, :, 0, 0], m)
        projected = batch_norm(projected) if form != 'conv' else projected + r.conv.bias.view(1, -1, 1, 1)
        if projected.shape[2] == 8:
            projected = projected.view(4, 9, 4, 2, 4, 2).mean((3, 5))
        difference = projected - TEACHER.features.detach()
        if 'pooled' in form:
            difference = difference.mean((2, 3))
        squares = difference.flatten(1) ** 2
        losses.append(squares.sum(1) if 'sum' in form else squares.mean(1))
    shallow = torch.stack(losses[1:])
    weights = (shallow / shallow.sum(0)).detach() if weighting == 'loss' else torch.full_like(shallow, 0.5)
    assert_close(term(BATCH), 30 * (losses[0] + (weights * shallow).sum(0)).mean())


def test_features_of_both_are_those_of_the_main_head_and_of_the_branches():
    both, main, branches = (make_term('feature', BATCH, kd_on=kd_on) for kd_on in ('both', 'main', 'branches'))
    main.projections.load_state_dict(both.projections[:1].state_dict())
    branches.projections.load_state_dict(both.projections[1:].state_dict())
    assert_close(main(BATCH) + branches(BATCH), both(BATCH))


@pytest.mark.parametrize('name', ['kd', 'feature'])
def test_equal_and_loss_weights_agree_where_the_losses_are_equal(name):
    same = OUTPUT._replace(branch_logits=(BRANCHES[0],) * 2, branch_features=(OUTPUT.branch_features[0],) * 2)
    batch = BATCH._replace(output=same)
    values = []
    for weighting in ('loss', 'equal'):
        term = make_term(name, batch, kd_on='both', branch_weighting=weighting)
        if name == 'feature':
            term.projections[2].load_state_dict(term.projections[1].state_dict())
        values.append(term(batch))
    assert_close(values[0], values[1])


@pytest.mark.parametrize('kd_on', ['main', 'branches', 'both'])
def test_kd_of_heads_that_agree_with_the_teacher_is_zero(kd_on):
    agreed = OUTPUT._replace(logits=TEACHER.logits, branch_logits=(TEACHER.logits,) * 2)
    assert make_term('kd', BATCH, kd_on=kd_on)(BATCH._replace(output=agreed)) == 0


@pytest.mark.parametrize(('kd_on', 'heads'), [('main', 1), ('branches', 2), ('both', 3)])
def test_only_the_heads_that_learn_have_a_projection(kd_on, heads):
    assert len(make_term('feature', BATCH, kd_on=kd_on).projections) == heads
    assert len(make_term('feature', BATCH, kd_on=kd_on, feature_weight=0).projections) == 0


# -- stages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('student', 'teacher', 'kernel', 'transposed'),
    [
        ((4, 8, 8), (5, 8, 8), (1, 1), False),
        ((4, 16, 16), (5, 8, 8), (3, 3), False),
        ((4, 4, 4), (5, 8, 8), (4, 4), True),
        ((4, 10, 9), (5, 8, 8), (3, 2), False),
        ((4, 10, 8), (5, 8, 8), (3, 1), False),
        ((4, 8, 9), (5, 8, 8), (1, 2), False),
    ],
)
def test_hint_regressor_by_sizes(student, teacher, kernel, transposed):
    regressor = hint_regressor(student, teacher)
    assert regressor.conv.kernel_size == kernel
    assert isinstance(regressor.conv, nn.ConvTranspose2d) == transposed
    assert regressor.conv.bias is not None
    assert regressor(torch.randn(2, *student)).shape == (2, *teacher)
    assert list(regressor.state_dict())[:4] == ['conv.weight', 'conv.bias', 'bn.weight', 'bn.bias']


def test_hint_regressor_cannot_enlarge_by_other_factors():
    with pytest.raises(ValueError, match='no regressor from 4x4 to 7x7'):
        hint_regressor((4, 4, 4), (5, 7, 7))
    with pytest.raises(ValueError, match='no regressor from 9x4 to 7x7'):
        hint_regressor((4, 9, 4), (5, 7, 7))


@pytest.mark.parametrize('stage', [0, 1])
def test_hint(stage):
    term = make_term('hint', BATCH, hint_stage=stage)
    conv = term.regressor.conv
    student, teacher = BATCH.stages[stage], TEACHER.stages[stage]
    projected = F.conv2d(student, conv.weight, conv.bias, stride=2 if stage else 1, padding=1 if stage else 0)
    assert_close(term(BATCH), 100 * (batch_norm(projected).relu() - teacher).square().mean())


def test_at():
    def attention(a):
        energy = a.square().mean(1).flatten(1)
        return energy / energy.norm(dim=1, keepdim=True)

    smaller = BATCH.stages[1].view(4, 6, 2, 2, 2, 2).mean((3, 5))
    pairs = [(BATCH.stages[0], TEACHER.stages[0]), (smaller, TEACHER.stages[1])]
    expected = sum((attention(s) - attention(t)).square().mean() for s, t in pairs)
    assert_close(make_term('at', BATCH)(BATCH), 1000 * expected)


def test_vid():
    term = make_term('vid', BATCH)
    smaller = BATCH.stages[1].view(4, 6, 2, 2, 2, 2).mean((3, 5))
    expected = 0.0
    for pair, student, teacher in zip(term.pairs, (BATCH.stages[0], smaller), TEACHER.stages, strict=True):
        first, second, third = (pair.regressor[i].weight[:, :, 0, 0] for i in (0, 2, 4))
        mean = torch.einsum('oi,bihw->bohw', first, student).relu()
        mean = torch.einsum('oi,bihw->bohw', second, mean).relu()
        mean = torch.einsum('oi,bihw->bohw', third, mean)
        # softplus(log(exp(5 - 1e-5) - 1)) + 1e-5 is 5
        expected = expected + 0.5 * ((mean - teacher).square() / 5 + torch.tensor(5.0).double().log()).mean()
    assert_close(term(BATCH), expected, rtol=1e-6, atol=0)
    names = [name for name, _ in term.pairs[0].named_parameters()]
    assert names == ['log_scale', 'regressor.0.weight', 'regressor.2.weight', 'regressor.4.weight']


# -- the heads among themselves ----------------------------------------------------------------------------------------


def test_synergy():
    beta = ((0, 2, 1), (0.5, 0, 1), (1, 3, 0))
    heads = [*BRANCHES, OUTPUT.logits]
    pairs = [(m, n) for m in range(3) for n in range(3) if m != n]
    expected = sum(beta[m][n] * kl(heads[m], heads[n]).mean() for m, n in pairs)
    assert_close(make_term('synergy', BATCH, beta=beta)(BATCH), expected)
    expected = sum(kl(heads[m], heads[n]).mean() for m, n in pairs if m > n)
    assert_close(make_term('synergy', BATCH, synergy='top-down')(BATCH), expected)


def test_forms_that_are_not_the_default():
    heads = [*BRANCHES, OUTPUT.logits]
    for settings, form in (({'synergy_form': 'ce'}, {'form': 'ce'}), ({'synergy_eps': 0.1}, {'eps': 0.1})):
        assert_close(make_term('synergy', BATCH, **settings)(BATCH), synergy_loss(heads, **form))
    expected = 1000 * attention_loss(BATCH.stages, TEACHER.stages, p=3)
    assert_close(make_term('at', BATCH, at_power=3.0)(BATCH), expected)
    expected = 0.3 * byot_self_kd_loss(BRANCHES, OUTPUT.logits, tau=2.0)
    assert_close(make_term('self_kd', BATCH, self_kd_temperature=2.0)(BATCH), expected)


def test_byot():
    soft = (OUTPUT.logits / 3).softmax(1)
    expected = 0.3 * sum(-(soft * (z / 3).log_softmax(1)).sum(1).mean() for z in BRANCHES)
    assert_close(make_term('self_kd', BATCH)(BATCH), expected)

    term = make_term('self_feature', BATCH)
    assert [tuple(p.weight.shape) for p in term.projections] == [(6, 5)]  # none for the deepest branch
    (linear,) = term.projections
    feature = OUTPUT.branch_features[0].mean((2, 3)) @ linear.weight.T + linear.bias
    difference = feature - OUTPUT.features.mean((2, 3))
    assert_close(term(BATCH), 0.03 * difference.square().sum().sqrt())


def test_byot_with_a_single_branch_has_no_feature_loss():
    output = OUTPUT._replace(branch_logits=BRANCHES[:1], branch_features=OUTPUT.branch_features[:1])
    batch = BATCH._replace(output=output)
    assert make_term('self_feature', batch)(batch) == 0


def test_maps_must_be_maps():
    tokens = BATCH._replace(teacher=TEACHER._replace(features=torch.randn(4, 50, 9)))
    with pytest.raises(ValueError, match=r"teacher's final map of shape \(B, C, H, W\), got \(4, 50, 9\)"):
        make_term('feature', tokens)


# -- stability ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(('size', 'classes'), [(1, 2), (3, 7), (2, 21841)])
@pytest.mark.parametrize('name', TERMS)
def test_values_and_gradients_stay_finite(name, size, classes, dtype):
    batch = make_batch(size, classes, dtype=dtype)
    extreme = [z.detach().sign().mul(1e4).requires_grad_() for z in (batch.output.logits, *batch.output.branch_logits)]
    output = batch.output._replace(logits=extreme[0], branch_logits=tuple(extreme[1:]))
    teacher = batch.teacher._replace(logits=-extreme[0].detach())
    batch = batch._replace(output=output, teacher=teacher)
    term = make_term(name, batch, **({'kd_on': 'both'} if 'kd_on' in TERMS[name].settings else {})).float()
    with torch.autocast('cpu', dtype=dtype, enabled=dtype != torch.float32):
        value = term(batch)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    inputs = [*extreme, output.features, *output.branch_features, *batch.stages, *term.parameters()]
    grads = torch.autograd.grad(value, inputs, allow_unused=True)
    assert any(grad is not None for grad in grads)
    assert all(torch.isfinite(grad).all() for grad in grads if grad is not None)
