/** `npm run dashboards`: writes what Grafana reads, dashboards/*.json, from the dashboards that are written beside this. */
import { writeFileSync } from 'node:fs'
import { DASHBOARDS } from './dashboards.ts'
import { grafanaDashboard } from './grafana-json.ts'

for (const [name, dashboard] of Object.entries(DASHBOARDS)) {
  const file = new URL(`dashboards/${name}.json`, import.meta.url)
  writeFileSync(file, `${JSON.stringify(grafanaDashboard(dashboard), null, 2)}\n`)
}
