// Command report writes docs/performance.md from the figures that benchmarks have kept, with a picture of what
// more guests cost. It is a module of its own, so that what draws is nothing that metaservice depends on.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/hexworker/metaservice/tests/bench/figures"
)

const picture = "performance-growth.svg"

func main() {
	from := flag.String("figures", "", "the folder with the figures")
	to := flag.String("docs", "", "the folder of the document")
	flag.Parse()
	if err := run(*from, *to); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	if from == "" || to == "" {
		return errors.New("-figures and -docs are both needed")
	}
	all, growth, err := figures.Read(from)
	if err != nil {
		return err
	}
	page, err := figures.Document(all, growth, figures.Machine(), picture)
	if err != nil {
		return err
	}
	if len(growth) > 0 {
		if err := drawGrowth(growth, filepath.Join(to, picture)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(to, "performance.md"), page, 0o644)
}

// drawGrowth draws memory and CPU side by side.
func drawGrowth(growth []figures.Point, file string) error {
	memory, err := chart("MiB", growth,
		line{"heap and stacks", func(p figures.Point) float64 { return p.Heap }},
		line{"resident", func(p figures.Point) float64 { return p.Resident }})
	if err != nil {
		return err
	}
	cpu, err := chart("% of a core", growth,
		line{"idle", func(p figures.Point) float64 { return p.Idle }},
		line{"a line a second each", func(p figures.Point) float64 { return p.Busy }})
	if err != nil {
		return err
	}
	canvas := vgsvg.New(9*vg.Inch, 3.5*vg.Inch)
	tiles := draw.Tiles{Rows: 1, Cols: 2, PadX: vg.Points(24), PadTop: vg.Points(8), PadBottom: vg.Points(8), PadLeft: vg.Points(8), PadRight: vg.Points(16)}
	plots := [][]*plot.Plot{{memory, cpu}}
	for i, c := range plot.Align(plots, tiles, draw.New(canvas))[0] {
		plots[0][i].Draw(c)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = canvas.WriteTo(out)
	return errors.Join(err, out.Close())
}

type line struct {
	name string
	of   func(figures.Point) float64
}

// chart has logarithmic axes: what grows with the guests is a straight line. What is nothing isn't on it.
func chart(unit string, growth []figures.Point, lines ...line) (*plot.Plot, error) {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text = "guests", unit
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.LogTicks{Prec: -1}, plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	for i, l := range lines {
		var points plotter.XYs
		for _, g := range growth {
			if v := l.of(g); v > 0 {
				points = append(points, plotter.XY{X: float64(g.Guests), Y: v})
			}
		}
		if len(points) == 0 {
			continue
		}
		curve, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, err
		}
		curve.Color, dots.Color = plotutil.Color(i), plotutil.Color(i)
		dots.Shape = plotutil.Shape(i)
		p.Add(curve, dots)
		p.Legend.Add(l.name, curve, dots)
	}
	return p, nil
}
