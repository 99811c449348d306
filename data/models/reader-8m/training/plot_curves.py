"""Draws the run's curves from log.csv: python plot_curves.py log.csv curves.svg"""

import csv
import sys

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main(log, picture):
    rows = list(csv.DictReader(open(log)))
    column = lambda name, of=rows: [float(row[name]) for row in of]
    measured = [row for row in rows if row["held_out_nll"]]
    figure, (losses, answers, rate) = plt.subplots(3, 1, figsize=(9, 8), sharex=True, height_ratios=[3, 2, 1])
    losses.plot(column("seconds"), column("prose_nll"), color="#4477AA", linewidth=0.8, label="training text, dropout on")
    losses.plot(column("seconds", measured), column("held_out_nll", measured), color="#CC3311", marker="o", markersize=3,
                label="held-out books, texts of 2,048 tokens")
    losses.set_ylabel("nats a token")
    losses.set_ylim(2.6, 4.6)
    losses.legend()
    answers.semilogy(column("seconds"), [max(1e-4, 1 - right) for right in column("answer_digits_right")], color="#117733", linewidth=0.8)
    answers.set_ylabel("wrong answer tokens\n(share)")
    rate.plot(column("seconds"), column("learning_rate"), color="#555555")
    rate.set_ylabel("learning rate\n(matrices)")
    rate.set_xlabel("seconds of training")
    begin = 0
    for i, row in enumerate(rows):
        if i + 1 == len(rows) or rows[i + 1]["length"] != row["length"]:
            for axes in (losses, answers, rate):
                axes.axvline(float(row["seconds"]), color="#BBBBBB", linewidth=0.8, zorder=0)
            narrow = float(row["seconds"]) - begin < 50
            losses.text((begin + float(row["seconds"])) / 2, 4.3 if narrow else 4.5, f"{int(row['length']):,}", ha="center",
                        va="center", fontsize=8, color="#555555", rotation=90 if narrow else 0)
            begin = float(row["seconds"])
    losses.set_title("Training of reader-8m; the numbers at the top are sequence lengths")
    figure.align_ylabels()
    figure.tight_layout()
    figure.savefig(picture, dpi=130)


if __name__ == "__main__":
    main(*sys.argv[1:])
