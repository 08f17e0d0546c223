/**
 * What a Node that a test starts needs of our environment: where programs are, and where a library had to be
 * unpacked for Node itself (deploy/prepare-node.mjs). Nothing else gets in by accident.
 */
const { PATH = '', LD_LIBRARY_PATH } = process.env

/** Spread it into the environment of a child. */
export const NODE_ENVIRONMENT: Readonly<Record<string, string>> = {
  PATH,
  ...(LD_LIBRARY_PATH === undefined ? {} : { LD_LIBRARY_PATH }),
}
