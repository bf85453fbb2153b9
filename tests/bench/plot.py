"""Plots of a result with gnuplot: a panel a metric, a bar a subject with its quarters, all repetitions as points; and where
measurements keep a series, how CPU time went to whom over time."""

import os
import shutil
import subprocess


def draw(folder, result, case, rows):
    if not shutil.which("gnuplot"):
        print("bench: no plots, as gnuplot is not installed (scripts/setup bench)", flush=True)
        return
    if not rows:
        return
    columns = min(3, len(rows))
    lines = (len(rows) + columns - 1) // columns
    script = [f"set terminal pngcairo size {380 * columns},{300 * lines + 40} font 'sans,9'",
              f"set output {quoted(os.path.join(folder, result['case'] + '.png'))}",
              f"set multiplot layout {lines},{columns} title {quoted(case.title + ' (' + result['where'] + ')')} noenhanced",
              "set style fill solid 0.35 border; set boxwidth 0.5; set key off; set yrange [*<0:*]; set grid y"]
    for metric, by_subject, _ in rows:
        unit = f" ({metric.unit})" if metric.unit else ""
        labels = ", ".join(f"{quoted(subject)} {i}" for i, subject in enumerate(by_subject))
        script.append(f"set title {quoted(metric.name + unit)} noenhanced")
        script.append(f"set xtics ({labels}); set xrange [-0.6:{len(by_subject) - 0.4}]")
        script.append("$bars << END")
        script += [f"{i} {s['median']} {s['low']} {s['high']}" for i, s in enumerate(by_subject.values())]
        script += ["END", "$points << END"]
        for i, subject in enumerate(by_subject):
            script += [f"{i + 0.35} {value[metric.name]}" for value in result["values"][subject]
                       if metric.name in value]
        script += ["END", "plot $bars using 1:2:1 with boxes linecolor variable, "
                   "$bars using 1:2:3:4 with yerrorbars linecolor 'black' pointtype 0, "
                   "$points using 1:2 with points pointtype 7 pointsize 0.4 linecolor 'gray40'"]
    script.append("unset multiplot")
    run(script)
    series = {subject: values[-1]["series"] for subject, values in result["values"].items()
              if values and "series" in values[-1]}
    if series:
        draw_series(folder, result, case, series)


def draw_series(folder, result, case, series):
    """A panel a subject, a line a machine: per cent of a CPU that it had between two looks, in the last round."""
    script = [f"set terminal pngcairo size 900,{300 * len(series) + 40} font 'sans,9'",
              f"set output {quoted(os.path.join(folder, result['case'] + '-over-time.png'))}",
              f"set multiplot layout {len(series)},1 title {quoted(case.title)} noenhanced",
              "set yrange [0:*]; set grid y; set xlabel 's'; set ylabel '% of a CPU'; set key outside noenhanced"]
    for subject, points in series.items():
        names = list(dict.fromkeys(name for point in points for name in point if name != "t"))
        for i, name in enumerate(names):
            script.append(f"$line{i} << END")
            for before, after in zip(points, points[1:]):
                if name in before and name in after and after["t"] > before["t"]:
                    per_cent = (after[name] - before[name]) / (after["t"] - before["t"]) / 1e7
                    script.append(f"{after['t']} {per_cent}")
                else:
                    script.append("")  # a gap
            script += ["", "END"]
        script.append(f"set title {quoted(subject)} noenhanced")
        script.append("plot " + ", ".join(f"$line{i} using 1:2 with lines linewidth 1.5 title {quoted(name)}"
                                          for i, name in enumerate(names)))
    script.append("unset multiplot")
    run(script)


def run(script):
    subprocess.run(["gnuplot"], input="\n".join(script) + "\n", text=True, check=True)


def quoted(text):
    return "'" + text.replace("'", "''") + "'"
