//! What a pattern comes to, told before it is compiled: what is written in it, as often as repetitions write it out.

use std::borrow::Cow;

use fancy_regex::Expr;
use regex_syntax::ast::parse::Parser;
use regex_syntax::ast::{Ast, ClassBracketed, ClassSet, ClassSetItem, RepetitionKind, RepetitionRange};

use super::limits;
use super::pcre::{Parsed, Verdict};

/// Instructions of a set that has most characters, each written in up to four bytes: `.`, `[^/]`.
const WIDE: usize = 16;

/// Instructions of a set that Unicode has a name for: `\p{L}` is one of the largest.
const NAMED: usize = 1 << 11;

/// What a part of a pattern for the backtracking engine costs in any case, in instructions: it is a machine of its own.
const PART: usize = 1 << 7;

/// Instructions that a pattern comes to, about: of the linear engine's, of which each takes some 64 bytes. 0 of one that is
/// malformed.
pub(super) fn of(pattern: &Parsed) -> usize {
    if let Verdict::Linear(ast) = &pattern.verdict {
        return of_ast(ast);
    }
    // Of all flags it is this one that says what is written.
    let text = if pattern.flags.extended { format!("(?x){}", pattern.text).into() } else { Cow::from(&pattern.text) };
    // Calls of groups write parts out once more, but equal parts are compiled once.
    let parts = limits::parts(&pattern.text).saturating_mul(PART);
    Expr::parse_tree(&text).map_or(0, |tree| of_expr(&tree.expr).saturating_add(parts))
}

fn of_ast(ast: &Ast) -> usize {
    match ast {
        Ast::Empty(_) | Ast::Flags(_) => 0,
        Ast::Assertion(_) => 1,
        Ast::Literal(literal) => literal.c.len_utf8(),
        Ast::Dot(_) | Ast::ClassPerl(_) => WIDE,
        Ast::ClassUnicode(_) => NAMED,
        Ast::ClassBracketed(class) => of_class(class),
        Ast::Repetition(repetition) => {
            let times = match repetition.op.kind {
                RepetitionKind::ZeroOrOne | RepetitionKind::ZeroOrMore | RepetitionKind::OneOrMore => 1,
                RepetitionKind::Range(RepetitionRange::Exactly(times) | RepetitionRange::Bounded(_, times)) => times,
                RepetitionKind::Range(RepetitionRange::AtLeast(times)) => times.saturating_add(1),
            };
            repeated(of_ast(&repetition.ast), times as usize)
        }
        Ast::Group(group) => of_ast(&group.ast),
        Ast::Alternation(alternation) => sum(alternation.asts.iter().map(of_ast)),
        Ast::Concat(concat) => sum(concat.asts.iter().map(of_ast)),
    }
}

fn of_class(class: &ClassBracketed) -> usize {
    of_set(&class.kind).saturating_add(if class.negated { WIDE } else { 0 })
}

fn of_set(set: &ClassSet) -> usize {
    match set {
        ClassSet::Item(item) => of_item(item),
        ClassSet::BinaryOp(both) => of_set(&both.lhs).saturating_add(of_set(&both.rhs)),
    }
}

fn of_item(item: &ClassSetItem) -> usize {
    match item {
        ClassSetItem::Empty(_) => 0,
        ClassSetItem::Literal(literal) => literal.c.len_utf8(),
        ClassSetItem::Range(range) if range.end.c.is_ascii() => 1,
        ClassSetItem::Ascii(class) if !class.negated => 1,
        ClassSetItem::Range(_) | ClassSetItem::Ascii(_) | ClassSetItem::Perl(_) => WIDE,
        ClassSetItem::Unicode(_) => NAMED,
        ClassSetItem::Bracketed(class) => of_class(class),
        ClassSetItem::Union(union) => sum(union.items.iter().map(of_item)),
    }
}

fn of_expr(expr: &Expr) -> usize {
    match expr {
        Expr::Empty => 0,
        Expr::Literal { val, .. } => val.len(),
        Expr::Any { .. } => WIDE,
        // A class, as it is written.
        Expr::Delegate { inner, .. } => Parser::new().parse(inner).map_or(NAMED, |ast| of_ast(&ast)),
        Expr::Repeat { child, lo, hi, .. } => {
            let times = if *hi == usize::MAX { lo.saturating_add(1) } else { *hi };
            repeated(of_expr(child), times)
        }
        _ if expr.is_leaf_node() => 1,
        _ => sum(expr.children_iter().map(of_expr)),
    }
}

/// Of what is repeated no times at all the engine learns that only once it has read it.
fn repeated(weight: usize, times: usize) -> usize {
    weight.saturating_mul(times.max(1))
}

fn sum(weights: impl Iterator<Item = usize>) -> usize {
    weights.fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::super::{Flags, pcre};
    use super::*;

    fn weight(pattern: &str, flags: &str) -> usize {
        of(&pcre::parse(pattern, Flags::parse(flags)))
    }

    #[test]
    fn repetitions_count_as_often_as_they_are_written_out() {
        for (pattern, flags, expected) in [
            ("", "", 0),
            ("abc", "", 3),
            ("a*b+c?", "", 3),
            ("a{3}b{2,}", "", 6),
            ("(ab){2,5}", "", 10),
            ("((a{10}){10}){10}", "", 1000),
            ("(a{0}b){2}", "", 4),
            ("[a-z0-9_]", "", 3),
            ("[[:alpha:]]", "", 1),
            ("[^/]{1,255}", "", 255 * (WIDE + 1)),
            (".", "s", WIDE),
            (r"\p{L}{60}", "", 60 * NAMED),
            (r"[\p{L}\p{N}]", "", 2 * NAMED),
            ("(a{9} # (\n){2}", "x", 18),
            ("(?=a)b", "", 4 * PART + 2),
            ("(?=a)(?x:(b{9} # (\n){2})", "", 10 * PART + 19),
            (r"(a)\g<1>", "", limits::INSTRUCTIONS * PART + 2),
            ("(?=a", "", 0),
        ] {
            assert_eq!(weight(pattern, flags), expected, "{pattern:?}");
        }
    }

    #[test]
    fn ordinary_patterns_of_an_object_come_to_little() {
        let each = [
            (r"^/api/v[0-9]+/(users|orders)/\d+$", ""),
            (r"\.(php|aspx?|jsp|cgi)$", "i"),
            (r"^/(?!admin/).*", ""),
            (r"union.+select|<script.*>|\.\./", "i"),
            (r"^[\w.+-]+@[\w-]+\.[\w.-]+$", ""),
        ];
        let together: usize = each.iter().map(|(pattern, flags)| weight(pattern, flags)).sum();
        assert!(200 * together < limits::TOGETHER, "{together}");
    }
}
