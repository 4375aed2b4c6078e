package main
import ("testing";"context";"path/filepath";"os";"math/rand/v2";"runtime/pprof")
func BenchmarkZZ(b *testing.B){
 ctx:=context.Background()
 dir,_,_:=newScratch("")
 defer os.RemoveAll(dir)
 c,models,err:=recordModels(ctx,filepath.Join(dir,"l"),3000)
 if err!=nil{b.Fatal(err)}
 defer c.Close()
 s,err:=openRetrace(ctx,filepath.Join(dir,"r"),c)
 if err!=nil{b.Fatal(err)}
 defer s.close()
 rnd:=rand.New(rand.NewPCG(1,2))
 for range 400 { s.ask(ctx,models[rnd.IntN(len(models))]) }
 b.Run("x",func(b *testing.B){
 b.ReportAllocs()
 rnd:=rand.New(rand.NewPCG(1,2))
 n:=0
 if b.N>100 { f,_:=os.Create("/tmp/peers-warm.prof"); pprof.StartCPUProfile(f); defer pprof.StopCPUProfile(); b.ResetTimer() }
 ks:=models[:0:0]; for range 400 { ks=append(ks,models[rnd.IntN(len(models))]) }
 for i:=range b.N { r,err:=s.ask(ctx,ks[i%400]); if err!=nil{b.Fatal(err)}; n+=r.count() }
 b.ReportMetric(float64(n)/float64(b.N),"edges")
 })
}
