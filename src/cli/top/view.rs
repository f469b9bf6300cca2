//! What `top` prints.

use serde_json::json;

use super::sample::Shard;

const TITLES: [&str; 13] = [
    "SHARD", "LOAD", "", "P50 us", "P99.9 us", "CONN", "CHAN", "MEMB", "IN/s", "PUB/s", "OUT/s",
    "MB OUT/s", "DROP/s",
];

/// Cells of a bar.
const BAR: usize = 10;

/// A table of the shards and their sum.
pub(super) fn text(shards: &[Shard]) -> String {
    let mut rows: Vec<[String; 13]> = vec![TITLES.map(str::to_owned)];
    rows.extend(shards.iter().map(|shard| cells(&shard.shard.to_string(), shard)));
    if let Some(all) = sum(shards) {
        rows.push(cells("all", &all));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..TITLES.len()).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &[String; 13]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect::<String>() + "\n"
}

/// One object.
pub(super) fn json(shards: &[Shard]) -> String {
    format!("{}\n", json!({ "shards": shards }))
}

fn cells(name: &str, shard: &Shard) -> [String; 13] {
    let whole = |number: f64| format!("{number:.0}");
    [
        name.to_owned(),
        format!("{:.1}%", shard.load * 100.0),
        bar(shard.load),
        format!("{:.1}", shard.turn_p50_s * 1e6),
        format!("{:.0}", shard.turn_p999_s * 1e6),
        shard.connections.to_string(),
        shard.channels.to_string(),
        shard.members.to_string(),
        whole(shard.messages_in),
        whole(shard.published),
        whole(shard.delivered),
        format!("{:.1}", shard.bytes_out / 1e6),
        whole(shard.dropped),
    ]
}

fn bar(part: f64) -> String {
    let full = (part * BAR as f64).round() as usize;
    format!("[{}{}]", "|".repeat(full), " ".repeat(BAR.saturating_sub(full)))
}

/// The mean load, the slowest turns, and the sum of everything else; `None` for one shard or none.
fn sum(shards: &[Shard]) -> Option<Shard> {
    let (first, rest) = shards.split_first().filter(|(_, rest)| !rest.is_empty())?;
    let mut all = rest.iter().fold(first.clone(), |all, shard| Shard {
        shard: all.shard,
        load: all.load + shard.load,
        turn_p50_s: all.turn_p50_s.max(shard.turn_p50_s),
        turn_p999_s: all.turn_p999_s.max(shard.turn_p999_s),
        connections: all.connections + shard.connections,
        channels: all.channels + shard.channels,
        members: all.members + shard.members,
        messages_in: all.messages_in + shard.messages_in,
        published: all.published + shard.published,
        delivered: all.delivered + shard.delivered,
        bytes_in: all.bytes_in + shard.bytes_in,
        bytes_out: all.bytes_out + shard.bytes_out,
        dropped: all.dropped + shard.dropped,
        disconnected: all.disconnected + shard.disconnected,
    });
    all.load /= shards.len() as f64;
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::example;
    use super::*;

    #[test]
    fn columns_are_aligned_and_the_last_row_is_the_sum() {
        let mut shards = example();
        shards.push(Shard { shard: 2, load: 1.0, ..shards[0].clone() });
        let page = text(&shards);
        let lines: Vec<&str> = page.lines().collect();
        let row = |name: &str, load: &str, rest: &str| format!("{name:>5}  {load:>20}{rest}");
        let (left, right) = ("     1.5         2", "       0.0     ");
        let one = format!("{left}     3     4     5   100    100    300{right}100");
        let two = format!("{left}     6     8    10   200    200    600{right}200");
        let expected = [
            "SHARD    LOAD                P50 us  P99.9 us  CONN  CHAN  MEMB  IN/s  PUB/s  OUT/s  \
             MB OUT/s  DROP/s"
                .to_owned(),
            row("1", "50.0%  [|||||     ]", &one),
            row("2", "100.0%  [||||||||||]", &one),
            row("all", "75.0%  [||||||||  ]", &two),
            String::new(),
        ];
        assert_eq!(lines, expected);
        assert_eq!(text(&example()).lines().count(), 3, "no sum of one shard");
    }
}
