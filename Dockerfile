# app.py on bakrypt_proxy.server. docs/deploy.md, "Containers", says how to build and run it.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE _bakrypt_proxy_pytest.py ./
COPY bakrypt_proxy/ bakrypt_proxy/
# Not --editable: /src is not in the image. pip has compiled the bytecode when it removes itself.
RUN python -m venv /venv \
    && /venv/bin/pip install '.[app,redis,server]' \
    && /venv/bin/pip uninstall --yes pip setuptools

FROM python:3.13-slim
COPY --from=build /venv /venv
WORKDIR /app
COPY app.py ./
ENV PATH="/venv/bin:$PATH"
# An environment variable, so that a container with other workers needs no other command.
ENV GRANIAN_WORKERS=2
# A number: Kubernetes checks `runAsNonRoot` by it. All files belong to root.
USER 10001:10001
EXPOSE 8000
# The server kills its workers 8 seconds later; `docker stop` kills the container after 10.
STOPSIGNAL SIGTERM
# Not urllib.request: it would ask the proxy that HTTP_PROXY names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "from http.client import HTTPConnection as Connection; \
c = Connection('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); \
raise SystemExit(c.getresponse().status != 200)"]
CMD ["python", "-m", "bakrypt_proxy.server", "--host", "0.0.0.0", "--factory", "app:create_app"]
