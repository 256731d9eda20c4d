"""`rdeic-rt serve`: decoding and encoding over HTTP, and a viewer (docs/http.md).

    app.py        the routes, and how HTTP is read and answered
    service.py    codecs, and the work itself in threads: bounded queue, time limit, cancelling
    pages.py      the viewer, and what it decodes with in the tab
    problems.py   errors as application/problem+json (RFC 9457)
    telemetry.py  metrics of Prometheus, spans of OpenTelemetry
    viewer/       a static page that uses the routes

Needs the extra ``serve``. triton.py is no part of that: it is what the models of serving/triton have in common.
"""
