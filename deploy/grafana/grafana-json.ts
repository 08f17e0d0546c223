/**
 * A dashboard as Grafana keeps it (schema 39: Grafana 11 and later migrate it by themselves). The data source is a
 * variable, so that the files can be imported into any Grafana as they are.
 */
import { alertsOf } from './dashboard.ts'
import type { Colour, Dashboard, Panel, Row, Threshold, Value, Variable } from './dashboard.ts'

/** Put in the address at which people read your copy of docs/runbooks.md. */
const RUNBOOKS_URL = 'https://git.example.com/wechat-login-gateway/docs/runbooks.md'

const SCHEMA_VERSION = 39
const SOURCE = { type: 'prometheus', uid: '${datasource}' }
const GRID_WIDTH = 24
const ROW_HEIGHT = 1
const STAT_HEIGHT = 4
const CHART_HEIGHT = 8

export type Json = Record<string, unknown>

export function grafanaDashboard({ uid, title, question, variables, rows }: Dashboard): Json {
  return {
    uid,
    title,
    description: question,
    tags: ['wechat-login'],
    schemaVersion: SCHEMA_VERSION,
    editable: true,
    graphTooltip: 1, // one crosshair for all charts
    refresh: '10s',
    time: { from: 'now-1h', to: 'now' },
    timezone: 'browser',
    annotations: { list: ANNOTATIONS },
    links: [
      // The other dashboards, with the same time and choices.
      {
        type: 'dashboards',
        tags: ['wechat-login'],
        title: '',
        keepTime: true,
        includeVars: true,
        asDropdown: false,
      },
    ],
    templating: { list: [SOURCE_VARIABLE, ...variables.map(variable), RUNBOOKS_VARIABLE] },
    panels: layOut(rows).map(({ panel, grid }, at) => ({ id: at + 1, gridPos: grid, ...panelJson(panel) })),
  }
}

/** Where each panel is: in rows of 24 columns, line by line. A row's own line has its title. */
export function layOut(rows: readonly Row[]): { panel: Panel | string; grid: Grid }[] {
  const placed: { panel: Panel | string; grid: Grid }[] = []
  let y = 0
  for (const { title, panels } of rows) {
    placed.push({ panel: title, grid: { x: 0, y, w: GRID_WIDTH, h: ROW_HEIGHT } })
    y += ROW_HEIGHT
    let x = 0
    let lineHeight = 0
    for (const panel of panels) {
      const h = panel.kind === 'stat' ? STAT_HEIGHT : CHART_HEIGHT
      if (x + panel.width > GRID_WIDTH) {
        x = 0
        y += lineHeight
        lineHeight = 0
      }
      placed.push({ panel, grid: { x, y, w: panel.width, h } })
      x += panel.width
      lineHeight = Math.max(lineHeight, h)
    }
    y += lineHeight
  }
  return placed
}

export interface Grid {
  x: number
  y: number
  w: number
  h: number
}

/** What is marked in every chart. */
export const ANNOTATION_QUERIES: readonly {
  name: string
  expr: string
  title: string
  colour: Colour
}[] = [
  {
    name: 'Alerts that fire',
    expr: 'ALERTS{alertstate="firing"}',
    title: '{{alertname}}',
    colour: 'red',
  },
  {
    name: 'Starts of processes',
    expr: '(time() - process_start_time_seconds and on (instance) build_info) < 60',
    title: '{{instance}} has started',
    colour: 'blue',
  },
]

const ANNOTATIONS = ANNOTATION_QUERIES.map(({ name, expr, title, colour }) => ({
  name,
  datasource: SOURCE,
  enable: true,
  iconColor: colour,
  expr,
  titleFormat: title,
  step: '10s',
}))

const SOURCE_VARIABLE = {
  name: 'datasource',
  label: 'Prometheus',
  type: 'datasource',
  query: 'prometheus',
}

/** Where an operator has docs/runbooks.md, as a page. */
const RUNBOOKS_VARIABLE = {
  name: 'runbooks',
  label: 'Runbooks at',
  type: 'textbox',
  query: RUNBOOKS_URL,
  current: { text: RUNBOOKS_URL, value: RUNBOOKS_URL },
}

function variable({ name, label, from }: Variable): Json {
  const query = `label_values(${from}, ${name})`
  return {
    name,
    label,
    type: 'query',
    datasource: SOURCE,
    definition: query,
    query: { query, refId: name },
    refresh: 2, // with the time range: processes come and go
    sort: 1,
    multi: true,
    includeAll: true,
    allValue: '.*',
    current: { text: 'All', value: '$__all' },
  }
}

function panelJson(panel: Panel | string): Json {
  if (typeof panel === 'string') return { type: 'row', title: panel, collapsed: false, panels: [] }
  return {
    type: TYPES[panel.kind],
    title: panel.title,
    description: panel.description,
    datasource: SOURCE,
    links: alertsOf(panel).map((alert) => ({
      title: `Runbook: ${alert}`,
      url: `\${runbooks}#${alert.toLowerCase()}`,
      targetBlank: true,
    })),
    targets: panel.queries.map(({ expr, legend }, at) => ({
      refId: String.fromCodePoint(65 + at), // A, B, …
      datasource: SOURCE,
      expr,
      legendFormat: legend === '' ? panel.title : legend,
    })),
    fieldConfig: {
      defaults: {
        unit: panel.unit,
        ...(panel.kind === 'lines' && { min: 0 }),
        color: panel.kind === 'lines' ? { mode: 'palette-classic' } : { mode: 'thresholds' },
        thresholds: { mode: 'absolute', steps: steps(panel.thresholds) },
        mappings: panel.values === undefined ? [] : [mapping(panel.values)],
        custom: CUSTOM[panel.kind](panel),
      },
      overrides: Object.entries(panel.colours ?? {}).map(([legend, colour]) => ({
        matcher: { id: 'byName', options: legend },
        properties: [{ id: 'color', value: { mode: 'fixed', fixedColor: colour } }],
      })),
    },
    options: OPTIONS[panel.kind],
  }
}

const TYPES = { lines: 'timeseries', stat: 'stat', states: 'state-timeline' } as const

const CUSTOM: Record<Panel['kind'], (panel: Panel) => Json> = {
  lines: ({ stacked, thresholds }) => ({
    drawStyle: 'line',
    lineWidth: 1,
    fillOpacity: stacked ? 40 : 10,
    showPoints: 'never',
    spanNulls: false,
    stacking: { mode: stacked ? 'normal' : 'none', group: 'A' },
    thresholdsStyle: { mode: thresholds === undefined ? 'off' : 'dashed' },
  }),
  stat: () => ({}),
  states: () => ({ fillOpacity: 80, lineWidth: 0 }),
}

const OPTIONS: Record<Panel['kind'], Json> = {
  lines: {
    tooltip: { mode: 'multi', sort: 'desc' },
    legend: { displayMode: 'list', placement: 'bottom', showLegend: true },
  },
  stat: {
    reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
    colorMode: 'value',
    graphMode: 'area',
    textMode: 'value',
    justifyMode: 'auto',
  },
  states: {
    mergeValues: true,
    showValue: 'never',
    rowHeight: 0.8,
    legend: { displayMode: 'list', placement: 'bottom', showLegend: true },
    tooltip: { mode: 'single' },
  },
}

function steps(thresholds: readonly Threshold[] = []): Json[] {
  return [
    { color: 'green', value: null },
    ...thresholds.map(({ from, colour }) => ({ color: colour, value: from })),
  ]
}

function mapping(values: Readonly<Record<number, Value>>): Json {
  const options = Object.entries(values).map(([value, { text, colour }], index): [string, Json] => [
    value,
    { text, color: grafanaColour(colour), index },
  ])
  return { type: 'value', options: Object.fromEntries(options) }
}

/** Grafana has names for all of ours but one. */
function grafanaColour(colour: Colour): string {
  return colour === 'grey' ? 'text' : colour
}
