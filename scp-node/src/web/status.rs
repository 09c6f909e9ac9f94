//! `/`: how the service is, for the physicist who wonders; plain HTML, no script, renewed every ten seconds.
//!
//! Nothing on it identifies a patient. Whatever comes from settings or posts is escaped.

use std::fmt::{self, Display, Write};
use std::sync::atomic::Ordering;

use chrono::{DateTime, TimeDelta, Utc};
use icom_core::live::LinkState;
use icom_core::status::LinacStatus;

use super::board::{Level, Post};
use super::probe::archive_part;
use super::server::Watched;

/// The page.
pub(super) fn page(watched: &Watched, now: DateTime<Utc>) -> String {
    let posts = watched.board.posts();
    let mut html = String::with_capacity(8192);
    // Writing to a string cannot fail.
    let _ = write!(html, "{HEAD}");
    let _ = headline(&mut html, watched, &posts, now);
    let _ = attention(&mut html, &posts, now);
    let _ = linacs(&mut html, watched, &posts, now);
    let _ = receiver(&mut html, watched);
    let _ = archives(&mut html, watched, &posts);
    let _ = parts(&mut html, &posts, now);
    let _ = write!(html, "{FOOT}");
    html
}

fn headline(html: &mut String, watched: &Watched, posts: &[Post], now: DateTime<Utc>) -> fmt::Result {
    let worst = posts.iter().map(|post| post.level).max().unwrap_or(Level::Good);
    let text = match worst {
        Level::Good => "Everything works.",
        Level::Warning => "The service works; something wants attention.",
        Level::Broken => "Something does not work.",
    };
    let ae_title = Text(watched.settings.node.ae_title.as_str());
    write!(
        html,
        "<h1>scp-node <small>{ae_title}</small></h1><p class=\"{}\">{text}</p>\
         <p class=note>At {} UTC; up for {}; version {}. This page renews itself every ten seconds.</p>",
        worst.word(),
        now.format("%Y-%m-%d %H:%M:%S"),
        Span(now.signed_duration_since(watched.started)),
        env!("CARGO_PKG_VERSION"),
    )
}

fn attention(html: &mut String, posts: &[Post], now: DateTime<Utc>) -> fmt::Result {
    let mut urgent: Vec<&Post> = posts.iter().filter(|post| post.level > Level::Good).collect();
    if urgent.is_empty() {
        return Ok(());
    }
    urgent.sort_by_key(|post| std::cmp::Reverse(post.level));
    write!(html, "<h2>What wants attention</h2><ul>")?;
    for post in urgent {
        let linac = post.linac.as_deref().map_or_else(String::new, |linac| format!(", linac {linac}"));
        write!(
            html,
            "<li><b class=\"{}\">{}{}</b>: {} <small>(for {})</small></li>",
            post.level.word(),
            Text(&post.part),
            Text(&linac),
            Text(&post.sentence),
            Span(now.signed_duration_since(post.since)),
        )?;
    }
    write!(html, "</ul>")
}

fn linacs(html: &mut String, watched: &Watched, posts: &[Post], now: DateTime<Utc>) -> fmt::Result {
    let status = watched.icom.status();
    let listened = status.iter().flat_map(|status| &status.linacs);
    let known = watched.settings.sites.iter().flat_map(|site| &site.linacs).map(|linac| linac.name.as_str());
    let names: Vec<&str> = known.collect();
    if names.is_empty() {
        return Ok(());
    }
    write!(
        html,
        "<h2>Linacs</h2><table><tr><th>linac<th>iCom<th>last message<th>beam<th>messages<th>records<th>gaps<th>repeats\
         <th>reconnects<th>not understood<th>worked twice<th>lost<th>else</tr>"
    )?;
    let listened: Vec<&LinacStatus> = listened.collect();
    for name in names {
        write!(html, "<tr><th>{}", Text(name))?;
        match listened.iter().find(|linac| linac.linac == name) {
            Some(linac) => row(html, linac, now)?,
            None => write!(html, "<td colspan=11>not listened to")?,
        }
        write!(html, "<td>")?;
        for post in posts.iter().filter(|post| post.linac.as_deref() == Some(name) && post.part != "iCom") {
            let (part, sentence) = (Text(&post.part), Text(&post.sentence));
            write!(html, "<span class=\"{}\">{part}</span>: {sentence}<br>", post.level.word())?;
        }
        write!(html, "</tr>")?;
    }
    write!(
        html,
        "</table><p class=note><b>gaps</b>: places where the linac's counter jumped. <b>repeats</b>: messages that came twice, kept \
         once. <b>reconnects</b>: links made after the first. <b>not understood</b>: bytes that are no iCom items; more than a few say that \
         values may be missing. <b>worked twice</b>: pieces that memory dropped while the disk was slow, and that were read again from the journal: \
         nothing is lost. <b>lost</b>: bytes dropped because the journal’s disk took none for too long; only these are gone.</p>"
    )
}

fn row(html: &mut String, linac: &LinacStatus, now: DateTime<Utc>) -> fmt::Result {
    let since = Span(now.signed_duration_since(linac.link.since));
    let (class, state) = match linac.link.state {
        LinkState::Connected => ("good", "connected"),
        LinkState::Connecting => ("warning", "no link"),
        _ => ("warning", "stopped"),
    };
    let why = linac.link.last_end.filter(|_| linac.link.state != LinkState::Connected);
    let why = why.map_or_else(String::new, |end| format!(", {}", end.text()));
    let age = match linac.last_message {
        Some(at) => format!("{} ago", Span(now.signed_duration_since(at))),
        None => "none yet".into(),
    };
    write!(html, "<td><span class={class}>{state}</span> for {since}{why}<td>{age}")?;
    write!(html, "<td>{}", if linac.beam_on { "on" } else { "off" })?;
    let not_understood = linac.skipped_bytes + linac.unparsed_bytes + linac.cut_bytes;
    for count in [
        linac.messages,
        linac.records,
        linac.gaps,
        linac.repeats,
        linac.links.saturating_sub(1),
        not_understood,
        linac.derived_dropped,
        linac.lost_bytes,
    ] {
        write!(html, "<td class=number>{count}")?;
    }
    Ok(())
}

fn receiver(html: &mut String, watched: &Watched) -> fmt::Result {
    let c = &watched.receiver;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    write!(
        html,
        "<h2>Receiver</h2><p>Receives images as <b>{}</b> on {}.</p><table><tr><th>since the start<th>count</tr>\
         <tr><td>associations admitted<td class=number>{}<tr><td>associations rejected<td class=number>{}\
         <tr><td>associations that broke<td class=number>{}<tr><td>objects stored<td class=number>{}\
         <tr><td>objects refused<td class=number>{}</table>",
        Text(watched.settings.node.ae_title.as_str()),
        watched.address,
        count(&c.associations),
        count(&c.rejected),
        count(&c.broken),
        count(&c.stored),
        count(&c.refused),
    )
}

fn archives(html: &mut String, watched: &Watched, posts: &[Post]) -> fmt::Result {
    if watched.settings.archives.is_empty() {
        return Ok(());
    }
    write!(html, "<h2>Archives</h2><table><tr><th>archive<th>AE title<th>address<th>known</tr>")?;
    for archive in &watched.settings.archives {
        let part = archive_part(&archive.name);
        let known = posts.iter().find(|post| post.part == part).map_or("", |post| post.sentence.as_str());
        write!(
            html,
            "<tr><th>{}<td>{}<td>{}:{}<td>{}</tr>",
            Text(&archive.name),
            Text(archive.ae_title.as_str()),
            Text(&archive.host),
            archive.port,
            Text(known),
        )?;
    }
    write!(html, "</table>")
}

fn parts(html: &mut String, posts: &[Post], now: DateTime<Utc>) -> fmt::Result {
    write!(html, "<h2>Parts</h2><table><tr><th>part<th>state<th>for<th>what</tr>")?;
    for post in posts.iter().filter(|post| post.linac.is_none() && !post.part.starts_with("archive ")) {
        let word = post.level.word();
        write!(
            html,
            "<tr><th>{}<td><span class={word}>{word}</span><td>{}<td>{}</tr>",
            Text(&post.part),
            Span(now.signed_duration_since(post.since)),
            Text(&post.sentence),
        )?;
    }
    write!(html, "</table>")
}

/// Foreign text in HTML.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            other => f.write_char(other),
        })
    }
}

/// A span of time as people say it, in its largest unit.
struct Span(TimeDelta);

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.num_seconds().max(0);
        match seconds {
            0..10 => write!(
                f,
                "{:.1} s",
                f64::from(u16::try_from(self.0.num_milliseconds()).unwrap_or(0)) / 1000.0
            ),
            10..120 => write!(f, "{seconds} s"),
            120..7200 => write!(f, "{} min", seconds / 60),
            7200..172_800 => write!(f, "{} h", seconds / 3600),
            _ => write!(f, "{} days", seconds / 86_400),
        }
    }
}

const HEAD: &str = "<!DOCTYPE html><html lang=en><head><meta charset=utf-8><meta http-equiv=refresh content=10>\
<meta name=viewport content=\"width=device-width\"><title>scp-node</title><style>\
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em;color:#222;background:#fff}\
h1 small{color:#666;font-weight:normal}h2{margin-top:1.6em;font-size:1.15em}\
table{border-collapse:collapse}th,td{text-align:left;padding:.25em .7em;border-bottom:1px solid #ddd;vertical-align:top}\
.number{text-align:right;font-variant-numeric:tabular-nums}.note{color:#666;font-size:.9em}\
.good{color:#17692b}.warning{color:#8a5a00}.broken{color:#b00020;font-weight:bold}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}\
.good{color:#7ad08d}.warning{color:#f0c060}.broken{color:#ff8080}}\
</style></head><body>";

const FOOT: &str = "<p class=note>For programs: <a href=\"/healthz\">/healthz</a>, <a href=\"/metrics\">/metrics</a>. \
No page shows a patient.</p></body></html>\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_become_markup() {
        assert_eq!(Text("<b a='1'>&\"").to_string(), "&lt;b a=&#39;1&#39;&gt;&amp;&quot;");
    }

    #[test]
    fn spans_are_told_in_their_largest_unit() {
        let said = |ms: i64| Span(TimeDelta::milliseconds(ms)).to_string();
        assert_eq!([said(340), said(-5), said(75_000), said(600_000)], ["0.3 s", "0.0 s", "75 s", "10 min"]);
        assert_eq!([said(10_800_000), said(345_600_000)], ["3 h", "4 days"]);
    }
}
