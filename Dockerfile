# The images of the gateway, the worker and the simulator:
#
#   docker build --target gateway -t wechat-login-gateway .
#
# Each is an empty image with Node, the libraries that Node loads and what it runs: no shell, no package manager, nothing
# of a distribution besides. Everything belongs to root, and the process to nobody. What goes in is put together by
# deploy/docker/assemble.ts with one date for all files, so that the same commit gives the same layers.
# Works with BuildKit and with the builder before it. docs/docker.md tells what was measured.

# The version that the tests run on. With a digest (NODE_IMAGE=node:26.10.0-slim@sha256:…) a registry cannot give another.
ARG NODE_IMAGE=node:26.10.0-slim

FROM ${NODE_IMAGE} AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# Optional packages are Node itself for machines that lack it, and a faster msgpack; scripts are there to prepare them.
RUN npm ci --omit=dev --omit=optional --ignore-scripts

FROM packages AS assembly
COPY . /source
RUN node /source/deploy/docker/assemble.ts /source /app/node_modules /out

FROM scratch AS node
COPY --from=assembly /out/node /
WORKDIR /app
ENV PATH=/usr/local/bin NODE_ENV=production MALLOC_ARENA_MAX=2
USER 65532:65532
ENTRYPOINT ["node"]

# Logs in users of a simulated WeChat for whoever asks: for tests and demonstrations. Needs no package.
FROM node AS simulator
COPY --from=assembly /out/simulator /
ENV HOST=0.0.0.0 PORT=3080 CONTROL_HOST=0.0.0.0 CONTROL_PORT=3081
EXPOSE 3080 3081
CMD ["test/simulator/main.js"]

FROM node AS with-packages
COPY --from=assembly /out/packages /

FROM with-packages AS worker
COPY --from=assembly /out/worker /
# In a container, loopback is nobody else's. What is published to whom is said where it is run.
ENV WORKER_HOST=0.0.0.0 WORKER_PORT=9091
EXPOSE 9091
HEALTHCHECK --interval=5s --timeout=10s --start-period=60s --retries=3 CMD ["node", "deploy/docker/health.js", "WORKER_PORT"]
CMD ["workers/main.js"]

FROM with-packages AS gateway
COPY --from=assembly /out/gateway /
ENV PORT=3000 ADMIN_HOST=0.0.0.0 ADMIN_PORT=9090
EXPOSE 3000 9090
HEALTHCHECK --interval=5s --timeout=10s --start-period=60s --retries=3 CMD ["node", "deploy/docker/health.js", "PORT"]
CMD ["src/main.js"]
