/** The dashboards as they are shipped: what their panels ask, as Prometheus takes it. */
import { sourceFiles, readSource } from '../harness/sources.ts'

export interface ShippedQuery {
  /** dashboard › panel */
  where: string
  /** As it stands in the file. */
  expr: string
  /** With what Grafana puts in place of its variables. */
  filled: string
}

/** A panel of a dashboard's JSON, as far as it is looked at here. */
export interface ShippedPanel {
  id: number
  type: string
  title: string
  gridPos: { x: number; y: number; w: number; h: number }
  targets?: { expr: string; legendFormat: string }[]
}

export interface ShippedDashboard {
  file: string
  uid: string
  title: string
  panels: ShippedPanel[]
  annotations: { list: { name: string; expr: string }[] }
  templating: { list: { name: string; type: string; definition?: string }[] }
}

export function shippedDashboards(): ShippedDashboard[] {
  return sourceFiles('deploy/grafana/dashboards/*.json').map((file) => ({
    ...(JSON.parse(readSource(file)) as Omit<ShippedDashboard, 'file'>),
    file,
  }))
}

/** Of every panel. */
export function panelQueries(dashboards = shippedDashboards()): ShippedQuery[] {
  return dashboards.flatMap(({ title, panels }) =>
    panels.flatMap((panel) =>
      (panel.targets ?? []).map(({ expr }) => ({
        where: `${title} › ${panel.title}`,
        expr,
        filled: fill(expr),
      })),
    ),
  )
}

/** Of the marks in the charts. In health they have no answer. */
export function annotationQueries(dashboards = shippedDashboards()): ShippedQuery[] {
  return dashboards.flatMap(({ title, annotations }) =>
    annotations.list.map(({ name, expr }) => ({ where: `${title} › ${name}`, expr, filled: fill(expr) })),
  )
}

/** As Grafana does it, when all processes and all apps are chosen. */
export function fill(expr: string, rateInterval = '10s'): string {
  return expr.replaceAll('$__rate_interval', rateInterval).replaceAll(/\$(?:instance|appid)\b/g, '.*')
}
