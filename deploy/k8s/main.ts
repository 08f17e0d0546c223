/** `npm run k8s:rules` (prometheus-rules.ts). */
import { writePrometheusRules } from './prometheus-rules.ts'

writePrometheusRules()
