"""The README of a hub folder."""

from dkszoo.weights import dump_yaml

from .citations import PAPERS, papers_of

# Settings that are paths on the training machine, or irrelevant to repeating the training.
LEFT_OUT = (
    *('output', 'experiment', 'resume', 'overwrite', 'export'),
    *('workers', 'log_interval', 'recovery_interval', 'device'),
)
PLACES = ('data_dir', 'initial_checkpoint', 'kd_checkpoint')
LOCAL = 'local-dir:'  # timm's word for a folder with weights


def model_card(card: dict, settings: dict, results: dict, license: str) -> str:
    """Markdown with the hub's metadata header: what the network is, how it was trained, its results, papers to cite.

    Args:
        card: The card of the export.
        settings: All settings of the training.
        results: Test figures of these weights, in percent except the loss; empty if unknown.
        license: Licence of the weights.
    """
    dataset = card.get('dataset') or 'an image folder'
    header = {
        'license': license,
        'library_name': 'timm',
        'pipeline_tag': 'image-classification',
        'tags': ['image-classification', 'timm', 'dkszoo', card['method']],
    }
    return '\n'.join(
        [
            '---',
            dump_yaml(header).strip(),
            '---',
            f'# {card["arch"]}, trained with {card["method"]} on {dataset}',
            '',
            'The training-only branches have been stripped; this is the plain network.',
            '',
            *fact_lines(card, license),
            '',
            '## Results',
            '',
            *result_lines(card, results, dataset),
            '',
            '## Use',
            '',
            '```python',
            'import timm',
            *([] if card['timm'] else ['import dkszoo  # registers the architecture with timm']),
            '',
            "model = timm.create_model('local-dir:FOLDER', pretrained=True).eval()  # on the hub: 'hf-hub:OWNER/NAME'",
            'data = timm.data.resolve_model_data_config(model)',
            'transform = timm.data.create_transform(**data, is_training=False)',
            '```',
            '',
            '## Recipe',
            '',
            'Save it as `recipe.yaml`; `dkszoo train --config recipe.yaml` repeats the training'
            ' (paths are left out: give them as flags).',
            '',
            '```yaml',
            recipe(settings),
            '```',
            '',
            *citation_lines(card['method']),
        ]
    )


def citation_lines(method: str) -> list[str]:
    """BibTeX of the method's papers and of the two that dkszoo implements."""
    papers = dict.fromkeys([*papers_of(method), PAPERS['dks'], PAPERS['dskd']])
    entries = '\n\n'.join(paper.bibtex for paper in papers)
    said = 'The papers of the method, and the two that dkszoo implements:'
    return ['## Citation', '', said, '', '```bibtex', entries, '```', '']


def fact_lines(card: dict, license: str) -> list[str]:
    """The table of facts about the network."""
    branches = f', branches `{design_name(card["design"])}`' if card.get('design') else ''
    return [
        '| | |',
        '|---|---|',
        f'| architecture | `{card["arch"]}` |',
        f'| parameters | {card["num_params"]:,} |',
        f'| FLOPs of an image of {"x".join(map(str, card["data"]["input_size"]))} | {card["flops"]:,} |',
        f'| method | `{card["method"]}`{branches} |',
        f'| weights | {"averaged (EMA)" if card["ema"] else "as trained"}, after epoch {card["epoch"] + 1} |',
        f'| verified | {card["verified"]} |',
        f'| SHA-256 of `model.safetensors` | `{card["sha256"]}` |',
        f'| licence of the weights | {license} |',
    ]


def design_name(design: str | dict) -> str:
    """The name of a branch design, including a user's own."""
    return design.get('name', 'own') if isinstance(design, dict) else design


def result_lines(card: dict, results: dict, dataset: str) -> list[str]:
    """The table of figures, or the one figure that the checkpoint itself records."""
    if results:
        rows = [f'| {name} | {value:.4f}{"" if name == "loss" else " %"} |' for name, value in results.items()]
        return [f'On the test set of {dataset}, one run:', '', '| figure | value |', '|---|---:|', *rows]
    if card.get('metric') is not None:
        return [
            f'Top-1 accuracy after that epoch, on the images that the best epoch was chosen on: {card["metric"]:.2f} %.'
        ]
    return ['None recorded.']


def recipe(settings: dict) -> str:
    """The settings as a recipe, without paths and empty values."""
    if settings.get('model', '').startswith(LOCAL):
        settings = {**settings, 'model': f'{LOCAL}DIR'}
    kept = {
        key: value
        for key, value in settings.items()
        if key not in (*LEFT_OUT, *PLACES) and (value not in (None, '', [], {}) or key == 'dataset')
    }
    return dump_yaml(kept, default_flow_style=None, width=1000).strip()
