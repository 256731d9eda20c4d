"""The command `rdeic-rt`: one module a verb, and the conventions they share.

    main.py      parses, runs the verb, turns what went wrong into one line and an exit code
    options.py   the groups of options that verbs share
    inputs.py    which files an input stands for: those in a folder
    outputs.py   which input goes to which output, decided before any work starts
    loop.py      the loop over inputs, one or several at a time, and its total
    failures.py  an error as one line and an exit code
    console.py   everything said on standard error: results of each file, warnings, the progress bar
    encode.py  decode.py  info.py  bundle.py  serve.py  batch.py
    bench.py (measure.py, chart.py)  eval.py  doctor.py (gpu_check.py)

A verb imports what it needs when it runs, so that `--help` and `info` start without numpy or ONNX Runtime.
"""
