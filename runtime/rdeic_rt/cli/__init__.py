"""The command `rdeic-rt`: one module a verb, and the conventions they share.

    main.py      parses, runs the verb, turns what went wrong into one line and an exit code
    options.py   the groups of options that verbs share
    outputs.py   which input goes to which output, decided before any work starts
    console.py   everything said on standard error: results of each file, warnings, the progress bar
    encode.py  decode.py  info.py  serve.py  bench.py (measure.py, chart.py)  doctor.py

A verb imports what it needs when it runs, so that `--help` and `info` start without numpy or ONNX Runtime.
"""
