"""Which noise each rate of DiffO should start from: stage *one_step*, shortened, with each, and a table of the results.

    python -m training.scan_noise --sqrt-eta 0.1 0.2 0.4 0.8 --steps 2000 --crops runs/crops.npy --validation val.tar \
        --init runs/diffo/base/weights.safetensors --out runs/diffo/scan

Each noise has a folder of its own under ``--out``, in which an interrupted training goes on, and one that is done is
only read. The table is ``noise.md`` there, for the model card; the best of a rate by the loss on validation photos
belongs into the configuration.
"""

from __future__ import annotations

import json
from pathlib import Path

from . import diffo, train_diffo

COLUMNS = ("loss", "psnr", "perceptual", "resnet", "bpp")


def main() -> None:
    """Train with each noise, and write the table."""
    p = diffo.parser(__doc__ or "")
    p.add_argument(
        "--sqrt-eta",
        type=float,
        nargs="+",
        required=True,
        help="noise levels to try; the standard deviation is kappa = 2 times each",
    )
    args = p.parse_args()
    out, rows = args.out, {}
    for sqrt_eta in args.sqrt_eta:
        args.out = out / f"{sqrt_eta:g}"
        if not (args.out / "weights.safetensors").exists():
            setup = diffo.prepare(args, "one_step", sqrt_eta=sqrt_eta)
            diffo.load_weights(setup.model, args.init)
            train_diffo.run(setup)
        rows[sqrt_eta] = _last(args.out / "validation.jsonl")
    (out / "noise.md").write_text(table(list(diffo.read_settings(args.config)["rates"]), rows))


def table(rates: list[str], rows: dict[float, dict[str, float]]) -> str:
    """Return measures by rate and noise as a table in Markdown, the best noise of a rate first."""
    lines = [f"| rate | sqrt eta | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for rate in rates:
        for sqrt_eta, measures in sorted(rows.items(), key=lambda row: row[1][f"{rate}.loss"]):
            numbers = " | ".join(f"{measures[f'{rate}.{name}']:.4g}" for name in COLUMNS)
            lines.append(f"| {rate} | {sqrt_eta:g} | {numbers} |")
    return "\n".join(lines) + "\n"


def _last(path: Path) -> dict[str, float]:
    last: dict[str, float] = json.loads(path.read_text().splitlines()[-1])
    return last


if __name__ == "__main__":
    main()
