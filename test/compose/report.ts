/** The rows of the check, with the bound that each is judged by. */
export interface Row {
  readonly what: string
  readonly measured: string
  /** '' where it is told and not judged. */
  readonly bound: string
  readonly ok: boolean
}

export function createReport() {
  const rows: Row[] = []
  const add = (row: Row) => {
    rows.push(row)
    console.log(`${row.ok ? 'ok  ' : 'FAIL'} ${row.what}: ${row.measured}${row.bound && ` (${row.bound})`}`)
  }
  return {
    rows,
    atMost(what: string, value: number, max: number, unit: string): void {
      const shown = (number: number) => `${Number(number.toFixed(2))} ${unit}`
      add({ what, measured: shown(value), bound: `≤ ${shown(max)}`, ok: value <= max })
    },
    /** @param offences what speaks against it; empty: it holds */
    holds(what: string, offences: readonly string[]): void {
      add({
        what,
        measured: offences.length === 0 ? 'yes' : offences.join('; '),
        bound: '',
        ok: offences.length === 0,
      })
    },
    tell(what: string, measured: string): void {
      add({ what, measured, bound: '', ok: true })
    },
    print(): void {
      console.log('\n| what | measured | bound | |\n|---|---|---|---|')
      for (const { what, measured, bound, ok } of rows)
        console.log(`| ${what} | ${measured} | ${bound} | ${ok ? 'ok' : '**failed**'} |`)
    },
    failed: () => rows.filter(({ ok }) => !ok).length,
  }
}

export type Report = ReturnType<typeof createReport>
