// Contender: oidc-provider, whose introspection answers the question of /auth. Everything in memory.
import { Provider } from 'oidc-provider'

const { PORT } = process.env
const client = {
  client_id: 'backend',
  client_secret: 'backend-secret-of-some-length',
  redirect_uris: [],
  response_types: [],
}

const provider = new Provider(`http://127.0.0.1:${PORT}`, {
  clients: [
    { ...client, grant_types: ['client_credentials'], token_endpoint_auth_method: 'client_secret_basic' },
  ],
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    devInteractions: { enabled: false },
  },
  ttl: { ClientCredentials: 3_600 },
})
provider.listen(Number(PORT), '127.0.0.1')
