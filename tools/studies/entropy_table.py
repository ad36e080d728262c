"""Entropy of the codes of a multi-bit neuron whose potential is standard normal, beside the multi-bit paper's Table 1.

python tools/studies/entropy_table.py

k = clip(floor(2^f * v / V_th), 0, 2^(i+f) - 1) with i integer bits, f fraction bits, V_th = 0.6 (arXiv 2407.05739).
"""

from __future__ import annotations

from statistics import NormalDist

from spikeyolo.neurons import entropy

THRESHOLD = 0.6
TABLE_1 = {(1, 0): 0.848, (2, 0): 1.149, (1, 1): 1.361, (2, 1): 1.998}  # bits, as printed there


def normal_entropy(integer_bits: int, fraction_bits: int, threshold: float = THRESHOLD) -> float:
    """Return the entropy in bits of the codes of a standard normal potential."""
    largest = 2 ** (integer_bits + fraction_bits) - 1
    step = threshold / 2**fraction_bits
    below = [NormalDist().cdf(step * k) for k in range(1, largest + 1)]
    return entropy([b - a for a, b in zip([0.0, *below], [*below, 1.0], strict=True)])


def main() -> None:
    """Print the table."""
    print("| integer bits | fraction bits | computed, bit | Table 1, bit | agree within 0.001 |\n|---|---|---|---|---|")
    for (i, f), printed in TABLE_1.items():
        ours = normal_entropy(i, f)
        print(f"| {i} | {f} | {ours:.3f} | {printed:.3f} | {'yes' if abs(ours - printed) < 1e-3 else 'no'} |")


if __name__ == "__main__":
    main()
