/**
 * The rules of deploy/prometheus as the Prometheus operator wants them, in components/monitoring. After a change there:
 * `npm run k8s:rules`. test/kubernetes.test.ts says when that was forgotten.
 */
import { readFileSync, writeFileSync } from 'node:fs'

const RULES = new URL('../prometheus/', import.meta.url)
const COMPONENT = new URL('components/monitoring/', import.meta.url)

/** Their files: <name>.rules.yml there, <name>-rules.yaml here. */
export const RULE_FILES = ['recording', 'alerts'] as const

type RuleFile = (typeof RULE_FILES)[number]

/** As it should stand in components/monitoring. */
export function prometheusRule(name: RuleFile): string {
  const rules = readFileSync(new URL(`${name}.rules.yml`, RULES), 'utf8')
  return `# Made by \`npm run k8s:rules\` from deploy/prometheus/${name}.rules.yml: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: wechat-login-${name}
spec:
${withoutComments(rules)
  .map((line) => (line === '' ? '' : `  ${line}`))
  .join('\n')}
`
}

/** Writes them all. */
export function writePrometheusRules(): void {
  for (const name of RULE_FILES) writeFileSync(new URL(`${name}-rules.yaml`, COMPONENT), prometheusRule(name))
}

/** Lines that are nothing but a comment, outside of block texts too: no expression of ours begins with #. */
function withoutComments(yaml: string): string[] {
  return yaml
    .trimEnd()
    .split('\n')
    .filter((line) => !/^\s*#/.test(line))
}
